"""The verbs of `bert-jax predict` as one table: what answers, which options it takes, which files it can write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bert_jax.errors import BertJaxError, UsageError
from bert_jax.files import atomic_writer, clear_errors, parse_json, require_writable, to_json
from bert_jax.infer.answer import answers
from bert_jax.infer.attention import attention_answers
from bert_jax.infer.attention_page import write_page
from bert_jax.infer.attention_picture import write_picture
from bert_jax.infer.by_form import form_of
from bert_jax.infer.choose import choose
from bert_jax.infer.classify import classify
from bert_jax.infer.embed import embeddings
from bert_jax.infer.extract import extracts
from bert_jax.infer.features import token_features
from bert_jax.infer.fill_mask import fill_masks
from bert_jax.infer.next_sentence import next_sentences
from bert_jax.infer.relate import relations
from bert_jax.infer.senses import Labelled, senses
from bert_jax.infer.senses_picture import write_picture as write_senses
from bert_jax.infer.tag import tags
from bert_jax.infer.task_verbs import CLASSIFIES
from bert_jax.infer.vectors_file import write_embeddings, write_features

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Answers = Iterator[dict[str, Any]]
Input = Any
"""A text, a pair of texts (a, b), or a text with its label."""


class Verb(NamedTuple):
    """One row: `answer(bert, inputs, **options)` gives JSON-able dicts: one per input, in order, or, of a verb that
    compares its inputs, one for all.
    """

    answer: Callable[..., Answers]
    options: tuple[str, ...]
    """Options of `predict` that it takes; another one given is an error of use."""
    writers: Mapping[str, Callable[[Answers, Path], Answers | None]] = {}
    """Suffixes of --out beside .jsonl, and what writes the answers there; what it returns goes to stdout."""
    pages: Mapping[str, Callable[..., None]] = {}
    """The same for files that show more than the answers hold: `write(bert, inputs, path, **options)`."""
    required: tuple[str, ...] = ()
    """Those of `options` without which there is no answer."""
    label: str | None = None
    """Field of an --input object that goes with its text: inputs of such objects are `Labelled`."""
    forms: tuple[str, ...] = ()
    """Rows of `tasks.table.FORMS`, of which the model must have been fine-tuned with one; `answer` is given it."""
    objects: bool = False
    """Whether inputs may be JSON objects of their own fields, which `answer` reads."""


LONG = ("truncate", "window", "max_length")

VERBS: dict[str, Verb] = {
    "fill-mask": Verb(fill_masks, ("top_k", "candidates", "truncate")),
    "next-sentence": Verb(next_sentences, ("truncate", "packing")),
    "embed": Verb(embeddings, ("pooling", "normalize", "prompt", "packing", *LONG), {".npy": write_embeddings}),
    "features": Verb(token_features, ("layers", "join", "words", *LONG), {".npy": write_features}),
    "attention": Verb(
        attention_answers, ("layers", "heads", "truncate"), pages={".html": write_page, ".png": write_picture}
    ),
    "classify": Verb(classify, ("truncate", "max_length", "packing"), forms=CLASSIFIES),
    "tag": Verb(tags, (), forms=("tagging",)),
    "relate": Verb(relations, (), forms=("relation",), objects=True),
    "extract": Verb(extracts, (), forms=("pointers",)),
    "answer": Verb(answers, ("context",), forms=("question_answering",), objects=True),
    "choose": Verb(choose, ("choices", "packing"), forms=("multiple_choice",), objects=True),
    "senses": Verb(senses, ("word", "truncate"), {".png": write_senses}, required=("word",), label="sense"),
}


def options_of(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given (not None), checked; `layers` and `heads` come as "-1,-2" and leave as numbers.

    Errors: `UsageError` naming an option that `task` does not take, or one that it needs.
    """
    used = {name: value for name, value in given.items() if value is not None}
    for name in used:
        if name not in VERBS[task].options:
            takers = [other for other, verb in VERBS.items() if name in verb.options]
            raise UsageError(f"--{name.replace('_', '-')} is for {', '.join(takers)}, not for {task}: leave it out")
    for name in VERBS[task].required:
        if name not in used:
            raise UsageError(f"{task} needs --{name.replace('_', '-')}")
    for name in ("layers", "heads"):
        if name in used:
            used[name] = _numbers(name, used[name])
    return used


def _numbers(name: str, given: str | Sequence[int]) -> tuple[int, ...]:
    """Numbers as the command line gives them, with commas between; Python callers give them as they are."""
    if not isinstance(given, str):
        return tuple(given)
    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError as error:
        raise UsageError(f"--{name} {given}: expected numbers with commas between them, such as 0,3,11") from error


def check_out(task: str, out: str | None) -> None:
    """Errors: `UsageError` for a file whose suffix `task` cannot write, `BertJaxError` where none can be written."""
    known = (".jsonl", *VERBS[task].writers, *VERBS[task].pages)
    if out is not None and Path(out).suffix not in known:
        raise UsageError(f"--out {out}: {task} writes {', '.join(known)}; expected a name that ends so")
    if out is not None:
        require_writable(out)


def answer_lines(bert: Bert, task: str, inputs: Iterable[Input], options: Mapping[str, Any], out: str | None) -> Any:
    """Answers to `inputs` as lines of JSON, or written to `out`, whole or not at all, and no lines (but for `features`
    as .npy, whose lines say which rows are whose; its file is there once they are taken)."""
    verb = VERBS[task]
    if verb.forms:
        options = {**options, "form": form_of(bert, verb.forms, f"{task} (predict {task})")}
    if verb.objects:
        inputs = map(_object_of, inputs)
    page = verb.pages.get(Path(out).suffix) if out is not None else None
    if out is not None and page is not None:
        page(bert, inputs, Path(out), **options)
        return iter(())
    found = verb.answer(bert, inputs, **options)
    if out is None:
        return (to_json(answer) for answer in found)
    writer = verb.writers.get(Path(out).suffix)
    if writer is not None:
        lines = writer(found, Path(out))
        return iter(()) if lines is None else (to_json(line) for line in lines)
    with atomic_writer(out, "w") as file:
        for answer in found:
            file.write(to_json(answer) + "\n")
    return iter(())


def _object_of(text: Input) -> Input:
    """A text that is a JSON object as that object, anything else as it is."""
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return text
    try:
        return parse_json(text)
    except ValueError:
        return text


def inputs_of_file(spec: str, task: str) -> Iterator[Input]:
    """Inputs of `task` from `FILE.jsonl[:field]`: each line a text, a pair [a, b], or an object with `text`, or `a` and
    `b`; for tasks that read objects of their own fields, the object.

    With a field, that field of each object; where the task takes labels, an object's text comes with its own.
    Errors: `BertJaxError` naming file and line.
    """
    name, _, field = spec.rpartition(":") if not Path(spec).exists() and ":" in spec else (spec, "", "")
    with clear_errors("read", name), open(name, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BertJaxError(f"{name}, line {number} is not UTF-8 at byte {error.start}: save it so") from error
            if line.strip():
                yield _input_of(line, field, VERBS[task], f"{name}, line {number}")


def _input_of(line: str, field: str, verb: Verb, place: str) -> Input:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise BertJaxError(f"{place} is not JSON: {error}") from error
    found: Any = value
    label = verb.label
    if verb.objects and not field and isinstance(value, Mapping):
        return value
    if isinstance(value, Mapping):
        found = value.get(field or "text")
        if not field and found is None and "a" in value and "b" in value:
            found = [value["a"], value["b"]]
    if isinstance(found, str):
        if label is None or not isinstance(value, Mapping):
            return found
        return Labelled(found, None if value.get(label) is None else str(value[label]))
    if isinstance(found, Sequence) and len(found) == 2 and all(isinstance(part, str) for part in found):
        return tuple(found)
    wanted = f"a field {field!r} of text" if field else 'a text, {"text": …}, [a, b] or {"a": …, "b": …}'
    raise BertJaxError(f"{place} holds {line.strip()[:60]}: expected {wanted}")
