"""The verbs of `bert-jax predict` as one table: what answers, which options it takes, which files it can write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import atomic_writer, clear_errors, require_writable, to_json
from bert_jax.infer.fill_mask import fill_masks
from bert_jax.infer.next_sentence import next_sentences

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Answers = Iterator[dict[str, Any]]
Input = Any
"""A text, or a pair of texts (a, b)."""


class Verb(NamedTuple):
    """One row: `answer(bert, inputs, **options)` gives one JSON-able dict per input, in order."""

    answer: Callable[..., Answers]
    options: tuple[str, ...]
    """Options of `predict` that it takes; another one given is an error of use."""
    writers: Mapping[str, Callable[[Answers, Path], None]] = {}
    """Suffixes of --out beside .jsonl, and what writes the answers there."""


VERBS: dict[str, Verb] = {
    "fill-mask": Verb(fill_masks, ("top_k", "candidates")),
    "next-sentence": Verb(next_sentences, ()),
}


def options_of(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given (not None), checked. Errors: `UsageError` naming one that `task` does not take."""
    used = {name: value for name, value in given.items() if value is not None}
    for name in used:
        if name not in VERBS[task].options:
            takers = [other for other, verb in VERBS.items() if name in verb.options]
            raise UsageError(f"--{name.replace('_', '-')} is for {', '.join(takers)}, not for {task}: leave it out")
    return used


def check_out(task: str, out: str | None) -> None:
    """Errors: `UsageError` for a file whose suffix `task` cannot write, `BertJaxError` where none can be written."""
    known = (".jsonl", *VERBS[task].writers)
    if out is not None and Path(out).suffix not in known:
        raise UsageError(f"--out {out}: {task} writes {', '.join(known)}; expected a name that ends so")
    if out is not None:
        require_writable(out)


def answer_lines(bert: Bert, task: str, inputs: Iterable[Input], options: Mapping[str, Any], out: str | None) -> Any:
    """Answers to `inputs` as lines of JSON, or written to `out`, whole or not at all, and no lines."""
    answers = VERBS[task].answer(bert, inputs, **options)
    if out is None:
        return (to_json(answer) for answer in answers)
    writer = VERBS[task].writers.get(Path(out).suffix)
    if writer is not None:
        writer(answers, Path(out))
    else:
        with atomic_writer(out, "w") as file:
            for answer in answers:
                file.write(to_json(answer) + "\n")
    return iter(())


def inputs_of_file(spec: str) -> Iterator[Input]:
    """Inputs from `FILE.jsonl[:field]`: each line a text, a pair [a, b], or an object with `text`, or `a` and `b`.

    With a field, that field of each object. Errors: `BertJaxError` naming file and line.
    """
    name, _, field = spec.rpartition(":") if not Path(spec).exists() and ":" in spec else (spec, "", "")
    with clear_errors("read", name), open(name, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _input_of(line, field, f"{name}, line {number}")


def _input_of(line: str, field: str, place: str) -> Input:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BertJaxError(f"{place} is not JSON: {error}") from error
    found: Any = value
    if isinstance(value, Mapping):
        found = value.get(field or "text")
        if not field and found is None and "a" in value and "b" in value:
            found = [value["a"], value["b"]]
    if isinstance(found, str):
        return found
    if isinstance(found, Sequence) and len(found) == 2 and all(isinstance(part, str) for part in found):
        return tuple(found)
    wanted = f"a field {field!r} of text" if field else 'a text, {"text": …}, [a, b] or {"a": …, "b": …}'
    raise BertJaxError(f"{place} holds {line.strip()[:60]}: expected {wanted}")
