"""Documents from parquet files, by row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bert_jax.data.documents import Document, record_document
from bert_jax.data.streams import EncodingErrors, Unit
from bert_jax.errors import BertJaxError

MAGIC = b"PAR1"
_ROWS = 64  # rows decoded at a time


def parquet_units(path: str, field: str | None, encoding_errors: EncodingErrors, unit_bytes: int) -> list[Unit]:
    """Units of neighbouring row groups, each about `unit_bytes` of the wanted columns once uncompressed."""
    with _open(path) as file:
        columns = _columns(file, field, path)
        units: list[Unit] = []
        start = size = 0
        for group in range(file.metadata.num_row_groups):
            size += _group_bytes(file.metadata.row_group(group), columns)
            if size >= unit_bytes or group == file.metadata.num_row_groups - 1:
                units.append(
                    Unit(
                        "parquet", path, start, group + 1, size, field=field or "text", encoding_errors=encoding_errors
                    )
                )
                start, size = group + 1, 0
        return units if file.metadata.num_rows else []


def parquet_documents(unit: Unit) -> Iterator[Document]:
    """The documents in the row groups [start, end) of a file; a null is no document."""
    import pyarrow as pa

    row = 0

    def place() -> str:
        return f"{unit.name}, row {row}"

    with _open(unit.path) as file:
        assert unit.end is not None
        batches = file.iter_batches(
            batch_size=_ROWS,
            row_groups=list(range(unit.start, unit.end)),
            columns=_columns(file, unit.field, unit.path),
            use_threads=False,
        )
        try:
            for batch in batches:
                for record in batch.to_pylist():
                    row += 1
                    document = record_document(record, unit, place)
                    if document:
                        yield document
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise BertJaxError(f"{place()}: cannot be read: {reason}; fetch the file again") from error
        except UnicodeDecodeError as error:
            raise BertJaxError(f"{place()}: not UTF-8 at byte {error.start} of the value") from error


def _open(path: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BertJaxError(f"{path} is a parquet file: pip install pyarrow") from None
    try:
        return pq.ParquetFile(path, memory_map=False, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BertJaxError(f"{path} is no whole parquet file: {reason}; fetch it again") from error


def _columns(file: Any, field: str | None, path: str) -> list[str]:
    """The columns that `field` (default `text`) needs."""
    names = file.schema_arrow.names
    wanted = (field or "text").split("+")
    for name in wanted:
        if name not in names and name.split(".")[0] not in names:
            hint = "" if field else f"; name it: {path}:FIELD"
            raise BertJaxError(f"{path}: no field {name!r}; it has {', '.join(names)}{hint}")
    return wanted


def _group_bytes(group: Any, columns: list[str]) -> int:
    parts = (group.column(index) for index in range(group.num_columns))
    return sum(
        part.total_uncompressed_size
        for part in parts
        if any(part.path_in_schema == name or part.path_in_schema.startswith(name + ".") for name in columns)
    )
