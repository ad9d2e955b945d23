"""Tagged words in columns: one word per line with its tag, a blank line between sentences (CoNLL, Weibo NER).

Columns stand between tabs, or blanks where a line has no tab. The word is the first column and the tag the last one,
unless `data.text` and `data.label` say otherwise: numbers from 0 (−1 is the last), or names where `data.header` says
that the first line holds them. A line that begins with -DOCSTART- begins a document; where there is none, each
sentence is a document of its own.

Tags are BIO (IOB2), IOB1 or BIOES (also spelled BMES and BILOU), and are turned into IOB2, or BIOES where a file has
tags of its own for ends and single words; the entities are those that conlleval sees (`tasks.entities`), so a tag I
without a beginning begins an entity.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bert_jax.console import log
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.entities import entities_of, is_bioes, split_tag, tags_of
from bert_jax.tasks.source_files import files_of, lines_of
from bert_jax.tasks.task import TaggedExample

DOCUMENT_MARK = "-DOCSTART-"
_BLANKS = re.compile("[ \t]+")
_NUMBERED = re.compile(r"(.+?)(\d{1,9})", re.DOTALL)  # a character and its place in the word: 国0 家1


@dataclass
class _Sentence:
    line: int
    document: int
    words: list[str]
    tags: list[str]


def read_columns(source: str, data: TaskData) -> Iterator[TaggedExample]:
    """The sentences of files in columns, as described at the top.

    A file with a single column has no tags: it can be predicted. Errors: `BertJaxError` naming file and line for a
    missing column, a tag of no known form, a file without words.
    """
    document = 0
    for path in files_of(source):
        sentences = _sentences(path, data, document)
        if not sentences:
            raise BertJaxError(f"{path} holds no words: expected lines of a word and its tag")
        document = sentences[-1].document + 1
        _strip_numbers(sentences, path)
        tagged = any(sentence.tags for sentence in sentences)
        bioes = is_bioes(tag for sentence in sentences for tag in sentence.tags)
        changed = 0
        for _, group in itertools.groupby(sentences, key=lambda sentence: sentence.document):
            members = list(group)
            words = [tuple(sentence.words) for sentence in members]
            for number, sentence in enumerate(members):
                tags = None
                if tagged:
                    tags = in_known_scheme(sentence.tags, bioes)
                    changed += sum(map(str.__ne__, tags, sentence.tags))
                yield TaggedExample(
                    place=f"{path}, line {sentence.line}",
                    id=str(sentence.line),
                    words=words[number],
                    tags=tags,
                    document=sentence.document,
                    sentences=words if len(words) > 1 else (),
                    number=number,
                )
        if changed:
            log(f"{path}: {changed} tags are written anew, as {'BIOES' if bioes else 'BIO (IOB2)'}; entities stay")


def in_known_scheme(tags: Sequence[str], bioes: bool) -> tuple[str, ...]:
    """Tags of any scheme as BIOES or BIO (IOB2), the entities as conlleval sees them."""
    return tags_of(entities_of(tags), len(tags), bioes)


def _sentences(path: str, data: TaskData, document: int) -> list[_Sentence]:
    """The sentences of one file, tags checked but as they are written."""
    found: list[_Sentence] = []
    names: list[str] | None = None
    columns = 0
    current: _Sentence | None = None
    marked = False
    for number, line in lines_of(path):
        if not line.strip(" \t\r") or line.startswith(DOCUMENT_MARK):
            current = None
            if line.startswith(DOCUMENT_MARK):
                document += bool(found) and found[-1].document == document
                marked = True
            continue
        place = f"{path}, line {number}"
        cells = line.rstrip("\r").split("\t") if "\t" in line else _BLANKS.split(line.strip(" \r"))
        if data.header and names is None:
            names = cells
            continue
        if columns and len(cells) != columns:
            raise BertJaxError(f"{place} has {len(cells)} columns, the lines before it {columns}: {line[:60]!r}")
        columns = len(cells)
        word = cells[_column(data.text, 0, columns, names, place, "text")]
        if not word:
            raise BertJaxError(f"{place} has no word: {line[:60]!r}; expected a word and its tag")
        if current is None:
            current = _Sentence(number, document, [], [])
            found.append(current)
        current.words.append(word)
        if columns > 1 or data.label is not None:
            current.tags.append(tag_of(cells[_column(data.label, -1, columns, names, place, "label")], place))
    if not marked:
        for index, sentence in enumerate(found):
            sentence.document = document + index
    return found


def _column(given: str | None, default: int, columns: int, names: Sequence[str] | None, place: str, what: str) -> int:
    """The column that `data.text` or `data.label` names, counted from 0."""
    if given is None:
        return default % columns
    if names is not None and given in names:
        return names.index(given)
    try:
        number = int(given)
    except ValueError:
        known = f"the header has {', '.join(names)}" if names else "without data.header columns have numbers, from 0"
        raise BertJaxError(f"{place}: no column {given!r} (data.{what}): {known}") from None
    if not -columns <= number < columns:
        raise BertJaxError(f"{place} has {columns} columns and no column {number} (data.{what})")
    return number % columns


def tag_of(tag: str, place: str) -> str:
    """A tag with the prefixes B I E S. Errors: `BertJaxError` for what is none."""
    parts = split_tag(tag)
    if parts is None:
        raise BertJaxError(
            f"{place}: {tag!r} is no tag: expected O, or B, I, E or S, a hyphen and a kind, such as B-LOC; is it the "
            "right column (data.label)?"
        )
    return "-".join(part for part in parts if part)


def _strip_numbers(sentences: Sequence[_Sentence], path: str) -> None:
    """Where every word of a file ends in its place inside a longer word (0, 1, … as in Weibo NER), take that off.

    A place is 0 or one more than the one before it; one in a hundred may be wrong, as it is in the published files.
    """
    stripped: list[list[str]] = []
    words = wrong = 0
    for sentence in sentences:
        matches = [match for word in sentence.words if (match := _NUMBERED.fullmatch(word))]
        if len(matches) != len(sentence.words):
            return
        places = [-1, *(int(match[2]) for match in matches)]
        wrong += sum(now not in (0, before + 1) for before, now in itertools.pairwise(places))
        words += len(matches)
        stripped.append([match[1] for match in matches])
    if 100 * wrong <= words:
        log(f"{path}: each character carries its place in a word (as {sentences[0].words[0]!r}): taken off")
        for sentence, bare in zip(sentences, stripped, strict=True):
            sentence.words = bare
