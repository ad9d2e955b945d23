"""Questions about texts, as SQuAD 1.1 and 2.0, CMRC 2018 and DRCD publish them: JSON → `Question`s.

Two forms are known: SQuAD's, `{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text",
"answer_start"}], "is_impossible"}]}]}]}`, and that of CMRC's trial file, `[{"context_id", "context_text", "qas":
[{"query_id", "query_text", "answers": [text]}]}]`, where an answer is looked for in its context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.files import read_json
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.source_files import files_of
from bert_jax.tasks.task import Question

_SHOWN = 60  # characters of a text in a message


def read_squad(source: str, data: TaskData) -> Iterator[Question]:
    """The questions of the file, or of the files of the glob, `source`, in their order.

    What cannot be used ends the reading with one line that names the first and counts them (`data.on_error` "stop"),
    or is counted in one warning and passed over ("skip"): a question that is empty, has no context, or an id that was
    there before. An answer that does not stand at its offset is moved to the nearest place of its context where it
    does; one that stands nowhere keeps its text for scoring, with −1 for its place, and is not learned.
    Errors: `BertJaxError` naming file, and question where there is one.
    """
    seen: set[str] = set()
    for path in map(Path, files_of(source)):
        yield from _File(path, data.on_error == "stop", seen).questions()


class _File:
    """One file being read, and what was found wrong with it."""

    def __init__(self, path: Path, stop: bool, seen: set[str]):
        self.path, self.stop, self.seen = path, stop, seen
        self.count = self.answers = 0
        self.refused: list[str] = []
        self.misplaced: list[str] = []
        self.moved = self.nowhere = 0

    def questions(self) -> list[Question]:
        """All of them; the file is held in memory as JSON is, so that an error can say how many there are."""
        found = []
        for number, (context, entries) in enumerate(self._paragraphs(), start=1):
            for entry in entries:
                self.count += 1
                question = self._question(context, entry, number)
                if question is not None:
                    found.append(question)
        self._report()
        if not found:
            raise BertJaxError(f"{self.path} holds no question that can be used: expected at least one")
        return found

    def _paragraphs(self) -> Iterator[tuple[Any, list[Mapping[str, Any]]]]:
        """(context, questions as they stand) of each paragraph."""
        value = read_json(self.path)
        articles = value.get("data") if isinstance(value, Mapping) else value
        if not isinstance(articles, list):
            raise BertJaxError(f'{self.path} is no set of questions: expected SQuAD\'s {{"data": […]}}')
        for number, article in enumerate(articles, start=1):
            place = f"{self.path}, entry {number}"
            if not isinstance(article, Mapping):
                raise BertJaxError(f"{place} is {str(article)[:_SHOWN]!r}: expected an object with paragraphs")
            paragraphs = article.get("paragraphs", [article])
            if not isinstance(paragraphs, list) or not all(isinstance(part, Mapping) for part in paragraphs):
                raise BertJaxError(f'{place} has no list of paragraphs: expected [{{"context": …, "qas": […]}}]')
            for paragraph in paragraphs:
                entries = paragraph.get("qas")
                if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
                    raise BertJaxError(
                        f"{place} has a paragraph without questions (it has {', '.join(paragraph) or 'nothing'}): "
                        'expected {"context": …, "qas": [{"id", "question", "answers"}]}'
                    )
                yield paragraph.get("context", paragraph.get("context_text")), entries

    def _question(self, context: Any, entry: Mapping[str, Any], paragraph: int) -> Question | None:
        """One question, or None after noting why it cannot be used."""
        given = entry.get("id", entry.get("query_id"))
        name = f"{paragraph}-{self.count}" if given is None else str(given)
        place = f"{self.path}, question {name}"
        text = entry.get("question", entry.get("query_text"))
        impossible = entry.get("is_impossible") is True
        flaw = None
        if not isinstance(context, str) or not context.strip():
            flaw = "has no context: expected the text that it is about"
        elif not isinstance(text, str) or not text.strip():
            flaw = f"is empty: expected the text of a question, got {text!r}"
        elif name in self.seen:
            flaw = "is there twice: give each question an id of its own"
        elif entry.get("is_impossible") is False and entry.get("answers") == []:
            flaw = "has no answer and is not marked impossible: expected one of them"
        if flaw is not None:
            self.refused.append(f"{place} {flaw}")
            return None
        self.seen.add(name)
        answers = () if impossible else self._answers(entry, context, place) or None
        return Question(place=place, id=name, question=text, context=context, answers=answers, impossible=impossible)

    def _answers(self, entry: Mapping[str, Any], context: str, place: str) -> tuple[tuple[str, int], ...] | None:
        given = entry.get("answers")
        if given is None:
            return None
        found = []
        for answer in given if isinstance(given, list) else [given]:
            text, start = answer, None
            if isinstance(answer, Mapping):
                text, start = answer.get("text"), answer.get("answer_start")
            if not isinstance(text, str) or not (start is None or type(start) is int):
                raise BertJaxError(
                    f'{place} has the answer {str(answer)[:_SHOWN]}: expected {{"text": …, "answer_start": number}}'
                )
            self.answers += 1
            found.append((text, self._locate(context, text, start, place)))
        return tuple(found)

    def _locate(self, context: str, text: str, start: int | None, place: str) -> int:
        """Where `text` stands: at `start`, else at the place nearest to it, −1 for none; whatever is not at `start` is
        noted. Without `start`, in a form that has none, the first place is right.
        """
        if start is not None and start >= 0 and text and context.startswith(text, start):
            return start
        nearest = nearest_place(context, text, start or 0)
        if start is not None or nearest < 0:
            at = "in its context" if start is None else f"at character {start} of its context"
            self.misplaced.append(f"{place}: the answer {text[:_SHOWN]!r} is not {at}")
            self.moved += nearest >= 0
            self.nowhere += nearest < 0
        return nearest

    def _report(self) -> None:
        wrong = [*self.refused, *self.misplaced]
        if not wrong:
            return
        if self.stop:
            counts = _counts((len(self.misplaced), "answers not at their offsets"), (len(self.refused), "questions"))
            raise BertJaxError(
                f"{wrong[0]}. Of {self.count} questions with {self.answers} answers cannot be used: {counts}; mend "
                "the file, or go on with --data.on-error skip"
            )
        if self.misplaced:
            warn(
                f"{len(self.misplaced)} of {self.answers} answers in {self.path} are not at their offsets: "
                f"{self.moved} moved to the nearest place where they are, {self.nowhere} that are nowhere count "
                f"in scores only. The first: {self.misplaced[0]}"
            )
        if self.refused:
            warn(f"{len(self.refused)} of {self.count} questions left out. The first: {self.refused[0]}")


def _counts(*numbers: tuple[int, str]) -> str:
    return " and ".join(f"{number} {what}" for number, what in numbers if number)


def nearest_place(context: str, text: str, start: int) -> int:
    """Where `text` stands in `context` nearest to `start`, the earlier of two equally near; −1 for nowhere."""
    if not text:
        return -1
    start = max(0, start)
    before = context.rfind(text, 0, start + len(text))
    after = context.find(text, start)
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: (abs(place - start), place), default=-1)
