"""TensorFlow 1 checkpoints of google-research/bert: `bert_model.ckpt.*` beside `bert_config.json` and `vocab.txt`.

Read by TensorFlow (the `tf` extra), one variable at a time; a zip as Google publishes it is unpacked beside nothing, in
a temporary directory that goes with the model.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.console import log, rewording
from bert_jax.data.drivers import tensorflow_on_cpu
from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors
from bert_jax.formats.adopt import Adopted, Tensor, adopt
from bert_jax.text.tokenizer import FILES as TOKENIZER_FILES

CONFIG_FILE = "bert_config.json"
STATE_FILE = "checkpoint"  # TensorFlow's own record of which checkpoint is the newest
_NEWEST = re.compile(r'^model_checkpoint_path:\s*"([^"]*)"', re.MULTILINE)
_INDEX = re.compile(r"\.ckpt(-\d+)?\.index$")


def index_of(prefix: Path) -> Path:
    """The index file of a checkpoint given by its prefix."""
    return prefix.with_name(f"{prefix.name}.index")


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the prefix or the index of a checkpoint, or a directory that holds one."""
    return bool(_prefixes(path)) if path.is_dir() else index_of(path).is_file() or _is_index(path)


def _is_index(path: Path) -> bool:
    return path.is_file() and bool(_INDEX.search(path.name))


def is_zip(path: Path) -> bool:
    """Whether `path` is a zip file."""
    return path.is_file() and path.suffix == ".zip"


def _prefixes(folder: Path) -> list[Path]:
    """Prefixes of the checkpoints in a directory."""
    return sorted(item.with_suffix("") for item in folder.iterdir() if _INDEX.search(item.name))


def _prefix_in(folder: Path) -> Path:
    """The checkpoint meant by a directory: its only one, or that which TensorFlow's file `checkpoint` names.

    Errors: `BertJaxError` naming them where there are several and the file names none of them.
    """
    found = _prefixes(folder)
    if len(found) == 1:
        return found[0]
    said = None
    if (folder / STATE_FILE).is_file():
        with clear_errors("read", folder / STATE_FILE):
            said = _NEWEST.search((folder / STATE_FILE).read_text("utf-8", "replace"))
    named = "" if said is None else said[1].replace("\\", "/").rsplit("/", 1)[-1]  # it may lie elsewhere by now
    for prefix in found:
        if prefix.name == named:
            log(f"{folder} holds {len(found)} checkpoints: {named} is taken, which its file {STATE_FILE} names")
            return prefix
    names = [prefix.name for prefix in found]
    why = f"its file {STATE_FILE} names {named!r}" if named else f"no file {STATE_FILE} says which is meant"
    raise BertJaxError(
        f"{folder} holds {len(found)} checkpoints ({', '.join(names)}) and {why}: give one, as {found[-1]}"
    )


def read_checkpoint(path: Path) -> tuple[BertConfig, Adopted, Path, int | None]:
    """Configuration, weights (matched, not read yet), folder and global step of a checkpoint (prefix or directory).

    Errors: `BertJaxError` for a missing or broken file, or weights that do not fit the configuration.
    """
    prefix = _prefix_in(path) if path.is_dir() else path.with_suffix("") if _is_index(path) else path
    folder = prefix.parent
    if not (folder / CONFIG_FILE).is_file():
        raise BertJaxError(f"no {CONFIG_FILE} beside {prefix}: it says what the checkpoint's model is; put it there")
    config = BertConfig.from_json_file(folder / CONFIG_FILE, "google")
    reader = _reader(prefix)
    shapes, kinds = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    tensors = {
        name: Tensor(tuple(shape), kinds[name].name, _read_later(reader, name, prefix))
        for name, shape in sorted(shapes.items())
        if not name.startswith("_CHECKPOINTABLE_OBJECT_GRAPH")
    }
    step = _step_of(tensors["global_step"], prefix) if "global_step" in tensors else None
    return config, adopt(tensors, "google", config, prefix), folder, step


def _step_of(tensor: Tensor, prefix: Path) -> int:
    if tensor.shape or tensor.dtype not in ("int64", "int32"):
        raise BertJaxError(f"{prefix}: global_step is {tensor.dtype} {tensor.shape}: expected one whole number")
    return int(tensor.read())


def _read_later(reader: Any, name: str, prefix: Path) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            return cast(np.ndarray, reader.get_tensor(name))
        except Exception as error:  # TensorFlow's errors have many classes
            raise BertJaxError(f"{prefix}: {name} cannot be read ({_one_line(error)}): fetch it again") from error

    return read


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _reader(prefix: Path) -> Any:
    data = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    if not data:
        raise BertJaxError(f"{index_of(prefix)} has no {prefix.name}.data-… beside it: fetch the whole checkpoint")
    tensorflow = tensorflow_on_cpu()
    try:
        return tensorflow.train.load_checkpoint(str(prefix))
    except Exception as error:  # TensorFlow's errors have many classes
        reason = _one_line(error)
        raise BertJaxError(f"{prefix} cannot be read as a TensorFlow checkpoint ({reason}): fetch it again") from error


class Unpacked:
    """The checkpoint of a zip in a temporary directory, which lasts as long as this object does."""

    def __init__(self, path: Path):
        temporary = tempfile.mkdtemp(prefix="bert_jax_zip_")
        weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        self.path, self.temporary = path, Path(temporary)
        target = self.temporary / path.stem
        try:
            with clear_errors("unpack", path), zipfile.ZipFile(path) as archive:
                members = [item for item in archive.infolist() if _wanted(item.filename)]
                _require_plausible(path, sum(item.file_size for item in members))
                archive.extractall(target, members)  # which leaves out what would lead outside, `..` and a first `/`
        except BertJaxError:
            raise
        except _BROKEN_ZIP as error:
            raise BertJaxError(f"{path} cannot be unpacked ({error}): fetch it again") from error
        folders = sorted({item.parent for item in target.rglob("*.index") if _INDEX.search(item.name)})
        if len(folders) != 1:
            raise BertJaxError(
                f"{path} holds {len(folders)} TensorFlow checkpoints: expected one bert_model.ckpt.index"
            )
        # A directory's name tells the casing: that in the zip or, where it says nothing, the zip's own.
        self.folder = folders[0]
        if "cased" not in self.folder.name.lower() and self.folder.name != path.stem:
            self.folder = self.folder.rename(self.folder.with_name(path.stem))

    @contextmanager
    def called_by_its_zip(self) -> Iterator[None]:
        """Whatever is said meanwhile, in a log line or an error, names the zip and not the temporary directory."""

        def renamed(text: str) -> str:
            for inside in (self.folder, self.temporary):
                text = text.replace(str(inside), str(self.path))
            return text

        with rewording(renamed):
            try:
                yield
            except BertJaxError as error:
                raise type(error)(renamed(str(error))) from error


# Broken, encrypted, or of a kind that is not known; each of them was seen.
_BROKEN_ZIP = (
    *(zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, struct.error, LookupError),
    *(zlib.error, lzma.LZMAError, OverflowError),
)
_LARGEST_FACTOR, _ALWAYS_BYTES = 50, 1 << 30


def _require_plausible(path: Path, size: int) -> None:
    """Errors: `BertJaxError` for what unpacks to a multiple of its size that no weights do (those of BERT: 1.1)."""
    if size > max(_ALWAYS_BYTES, _LARGEST_FACTOR * path.stat().st_size):
        raise BertJaxError(
            f"{path} would unpack to {size:,} bytes, from {path.stat().st_size:,}: that is no checkpoint"
        )


def _wanted(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    if last.startswith("._"):  # what macOS puts beside each file
        return False
    return ".ckpt" in last or last in (CONFIG_FILE, STATE_FILE, *TOKENIZER_FILES)
