"""The examples of a run: read from all their sources, split, encoded, and what was found on the way said."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.console import log, warn
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.task import Form, Row, Task


@dataclass(frozen=True)
class Split:
    """Examples of one part (train, dev or test) and their fingerprint."""

    name: str
    examples: tuple[Any, ...]
    fingerprint: str


def read_splits(task: Task, data: TaskData) -> dict[str, Split]:
    """`train`, `dev` and, where there is one, `test`. Errors: `BertJaxError` for whatever cannot be read or is empty.

    Without dev sources, examples are held out of train by a hash of their texts, so that one text never stands on both
    sides.
    """
    if not data.train:
        raise BertJaxError("data.train names no examples: give --data.train FILE (and --data.dev FILE)")
    train = _read(task, data, "train", data.train)
    if data.dev:
        dev = _read(task, data, "dev", data.dev)
    else:
        held = [_share_of(example) < data.dev_share for example in train]
        dev = [example for example, out in zip(train, held, strict=True) if out]
        train = [example for example, out in zip(train, held, strict=True) if not out]
        log(f"dev: {len(dev)} of the examples in data.train are held out (data.dev_share {data.dev_share})")
    if data.examples is not None:
        train = train[: data.examples]
    parts = {"train": train, "dev": dev}
    if data.test:
        parts["test"] = _read(task, data, "test", data.test)
    for name in ("train", "dev"):
        if not parts[name]:
            raise BertJaxError(
                f"there is no example to {'train on' if name == 'train' else 'score'}: data.{name} is empty"
            )
    return {name: Split(name, tuple(found), _fingerprint(found)) for name, found in parts.items()}


def _read(task: Task, data: TaskData, part: str, sources: Sequence[str]) -> list[Any]:
    found = [example for source in sources for example in task.read(source, data)]
    log(f"{part}: {len(found)} examples from {', '.join(sources)}")
    return found


def _content(example: Any, without: tuple[str, ...] = ("place", "id")) -> str:
    """What an example says, without where it stands, nor its neighbours."""
    names = [item.name for item in dataclasses.fields(example) if item.compare and item.name not in without]
    return repr([(name, getattr(example, name)) for name in sorted(names)])


_RIGHT = ("label", "tags", "spans", "answers", "impossible", "score", "document", "question")


def _share_of(example: Any) -> float:
    """A number in [0, 1) that follows from the texts of an example; of questions, from what they are asked about."""
    texts = _content(example, ("place", "id", *_RIGHT)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(texts).digest()[:7], "big") / 2**56


def _fingerprint(examples: Iterable[Any]) -> str:
    total = hashlib.sha256()
    for example in examples:
        total.update(_content(example).encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()


def encode_all(split: Split, form: Form, data: TaskData, labelled: bool = False) -> tuple[list[Any], list[list[Row]]]:
    """The examples that can be used, and the rows of each, ids as int32 arrays; what was cut or left out is logged.

    Errors: `BertJaxError` for an example that cannot be used, unless data.on_error is "skip", and when none is left.
    """
    before, first_error, missed = form.cut, "", 0
    examples, rows = [], []
    for example in split.examples:
        try:
            if labelled and not form.labelled(example):
                raise BertJaxError(
                    f"{example.place or split.name}: the label is missing: expected one in data.{split.name}"
                )
            own = form.encode(example)
        except BertJaxError as error:
            if data.on_error == "stop":
                raise
            first_error, missed = first_error or str(error), missed + 1
            continue
        examples.append(example)
        rows.append([dataclasses.replace(row, ids=tuple(np.asarray(ids, np.int32) for ids in row.ids)) for row in own])
    empty = [example for example, own in zip(examples, rows, strict=True) if any(_lacks_text(row, form) for row in own)]
    if empty:
        warn(
            f"{split.name}: {len(empty)} of {len(examples)} examples have an empty text, or one in which the tokenizer "
            f"sees nothing; they are used as they are; the first: {empty[0].place or split.name}"
        )
    if missed:
        warn(f"{split.name}: {missed} of {len(split.examples)} examples are left out; the first: {first_error}")
    if not examples:
        raise BertJaxError(f"{split.name}: no example can be used; the first: {first_error}")
    cut = form.cut - before
    if cut:
        warn(f"{split.name}: {cut} of {len(examples)} examples are too long and lose tokens")
    windows = sum(map(len, rows))
    if windows > len(rows):
        log(f"{split.name}: {len(rows)} examples make {windows} rows of at most {form.options.length} tokens")
    return examples, rows


def _lacks_text(row: Row, form: Form) -> bool:
    """Whether a text of the row has no token: two specials stand side by side, and typed ones are plain characters."""
    specials = (form.tokenizer.cls_id, form.tokenizer.sep_id)
    return any(bool(np.any(found[1:] & found[:-1])) for found in (np.isin(ids, specials) for ids in row.ids))
