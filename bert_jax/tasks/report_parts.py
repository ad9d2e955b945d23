"""What a report is made of, and how it becomes Markdown: tables, mistakes, a picture's numbers, texts cut to a line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LINE = 160  # characters of a text in a table of mistakes
_MARKUP = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside of a word is nothing special
_JOINERS = "\u200c\u200d"  # not printable by themselves, yet parts of words and of signs


class Table(NamedTuple):
    """One table: a title, a line before it, names of the columns, and the cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


class Mistake(NamedTuple):
    """One example that went wrong; the greatest `badness` is the worst. `share`: with what probability."""

    badness: tuple[float, ...]
    text: str
    right: str
    predicted: str
    share: float | None
    place: str = ""


class Matrix(NamedTuple):
    """A picture: counts of true (rows) against predicted labels; `of` how many, where these are some only."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    of: int | None = None


class Scatter(NamedTuple):
    """A picture: a predicted number over the right one."""

    right: Sequence[float]
    predicted: Sequence[float]
    name: str


class Bars(NamedTuple):
    """A picture: a value for each of several groups of examples, and how many are in each."""

    groups: Sequence[str]
    values: Sequence[float | None]
    counts: Sequence[int]
    across: str
    up: str


Picture = Matrix | Scatter | Bars


@dataclass
class Findings:
    """What a form's predictions show. `share`: what the mistakes' numbers are called."""

    tables: list[Table] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    picture: Picture | None = None
    share: str = "probability"


def number(value: Any, digits: int = 4) -> str:
    """A number for a person; a dash for None and for what is not finite.

    >>> number(0.5), number(12), number(None), number(87.12345)
    ('0.5000', '12', '–', '87.12')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int):
        return str(value)
    return f"{value:.{digits if abs(value) < 10 else 2}f}"


def plain(text: str) -> str:
    """One line: blanks and line ends as one blank, what cannot be printed as the replacement character."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() or char in _JOINERS else "\ufffd" for char in joined)


def cut(text: str, most: int = LINE) -> str:
    """`text` on one line of at most `most` characters, cut at a blank where one is near.

    >>> cut("one two three", 10)
    'one two …'
    """
    line = plain(text)
    if len(line) <= most:
        return line
    kept = line[: most - 2]
    before = kept if line[most - 2] == " " else kept.rpartition(" ")[0]
    return (before if len(before) > most // 3 else kept).rstrip() + " …"


def around(text: str, marks: Iterable[tuple[int, int]], most: int = LINE) -> str:
    """The part of `text` that holds «the marked» pieces (first, past), cut on both sides; overlapping ones once."""
    kept: list[tuple[int, int]] = []
    for first, past in sorted(marks):
        if not kept or first >= kept[-1][1]:
            kept.append((first, past))
    begin = 0
    if kept and len(text) > most and kept[0][0] > most // 2:
        begin = kept[0][0] - most // 2
        blank = text.find(" ", begin, kept[0][0])
        begin = blank + 1 if blank >= 0 else begin
    shown, last = ("… " if begin else ""), begin
    for first, past in kept:
        if last > begin and past - begin > most:
            break
        shown += f"{text[last:first]}«{cut(text[first:past], most)}»"
        last = past
    rest = text[last:]
    return plain(shown) + (" " if rest[:1].isspace() else "") + cut(rest, max(20, most - (last - begin)))


def escaped(text: str) -> str:
    """`text` so that Markdown shows it as it is, a table's cell included."""
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", safe)


def cell(value: Any) -> str:
    """One cell: numbers as `number`, everything else escaped, on a line that ends somewhere."""
    return escaped(cut(value, 2 * LINE)) if isinstance(value, str) else number(value)


def table_text(table: Table) -> str:
    """The table in Markdown, numbers to the right; of no rows, that there are none."""
    lines = [f"### {escaped(table.title)}", ""]
    if table.note:
        lines += [escaped(table.note), ""]
    if not table.rows:
        return "\n".join([*lines, "None.", ""])
    texts = [isinstance(value, str) for value in table.rows[0]]
    lines.append(f"| {' | '.join(map(cell, table.columns))} |")
    lines.append(f"|{'|'.join(' --- ' if text else ' ---: ' for text in texts)}|")
    lines += [f"| {' | '.join(map(cell, row))} |" for row in table.rows]
    return "\n".join([*lines, ""])


def rates(right: int, found: int, wanted: int) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1; None where nothing was found, wanted, or either."""
    return (
        right / found if found else None,
        right / wanted if wanted else None,
        2 * right / (found + wanted) if found + wanted else None,
    )


def counted(name: str, right: int, found: int, wanted: int) -> tuple[Any, ...]:
    """A row of a table: how many there are, missed, spurious, and their rates."""
    return name, wanted, wanted - right, found - right, *rates(right, found, wanted)


def mean(values: Sequence[float]) -> float | None:
    """None of none."""
    return sum(values) / len(values) if values else None


def by_length(lengths: Sequence[int], marks: Sequence[float], across: str, up: str, most: int = 6) -> Bars:
    """Mean marks in groups of like length, about as many examples in each; equal lengths are never parted."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups: list[list[int]] = []
    size = max(1, math.ceil(len(order) / most))
    for index in order:
        if groups and (len(groups[-1]) < size or lengths[groups[-1][-1]] == lengths[index]):
            groups[-1].append(index)
        else:
            groups.append([index])
    ends = [(lengths[group[0]], lengths[group[-1]]) for group in groups]
    names = [str(first) if first == last else f"{first}–{last}" for first, last in ends]
    return Bars(
        names, [mean([marks[i] for i in group]) for group in groups], [len(group) for group in groups], across, up
    )


def bars_table(title: str, bars: Bars) -> Table:
    """The numbers of a picture of bars."""
    rows = [(name, count, value) for name, count, value in zip(bars.groups, bars.counts, bars.values, strict=True)]
    return Table(title, (bars.across, "examples", bars.up), rows)
