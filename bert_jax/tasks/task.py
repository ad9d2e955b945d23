"""What a fine-tuning task is made of: examples as they are read, rows as the model takes them, and what joins the two.

A *task* is one row of the table (`tasks.table`): a name, a head, a reader, a metric. Its *form* is how that kind of
example meets the model: text to rows before the step, logits to a prediction after it; training, evaluation and
`bert-jax predict` use the same one. Letters: B batch, K sequences per example, T position, C classes.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np

from bert_jax.finetune_config import TaskData, TaskOptions
from bert_jax.text.tokenizer import Tokenizer

Outputs = Mapping[str, jax.Array]
Batch = Mapping[str, jax.Array]
Prediction = dict[str, Any]
"""What is predicted for one example, in JSON values (arrays only where the metric needs them, such as `vector`)."""
Scores = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What all examples have. `place` names the file and line for messages, `id` the example in predictions files."""

    place: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExample(Example):
    """A text, or a pair, with its label: a name (classification), a number (regression), names (several labels)."""

    a: str
    b: str | None = None
    label: str | float | tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedExample(Example):
    """Words with one tag each (`B-LOC`, `O`). `text` and `offsets` (first, past of each word) where it was a text.

    `document`: equal for the sentences of one document, in order, for those who use their neighbours as context.
    These are in `sentences`, the words of all sentences of the document (one object shared by them), `number` being
    the place of this one among them.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None
    document: int = 0
    sentences: Sequence[tuple[str, ...]] = field(default=(), repr=False, compare=False)
    number: int = field(default=0, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationExample(Example):
    """A text with two marked entities, each (first character, past the last one), and the relation between them."""

    text: str
    first: tuple[int, int]
    second: tuple[int, int]
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanExample(Example):
    """A text with any number of spans, which may overlap: (first character, past the last one, kind)."""

    text: str
    spans: tuple[tuple[int, int, str], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Example):
    """A question about a text. `answers`: (text, first character) each; none of them and `impossible` means no answer.

    `answers` is None where the answer is asked for. A first character of −1: the text does not stand there, so that it
    counts when answers are scored and nothing is learned from it.
    """

    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None = None
    impossible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceExample(Example):
    """A beginning and any number of endings, of which `label` (counted from 0) is right.

    `question`: what the second segment begins with, before each ending (SWAG's second sentence, a question).
    """

    context: str
    choices: tuple[str, ...]
    label: int | None = None
    question: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarExample(Example):
    """Two texts, or (anchor, alike, different), with a score of how alike the two are where one is known."""

    texts: tuple[str, ...]
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What the model takes at once: K sequences of token ids and segment ids (K is 1 for most forms).

    `targets`: arrays without the batch axis; those that the form lists in `token_targets` have one value per token of
    the sequence, and are padded with it. `source`: whatever `decode` needs to find its way back. `weight`: of the row's
    loss in the mean over a batch.
    """

    ids: tuple[Sequence[int] | np.ndarray, ...]
    segments: tuple[Sequence[int] | np.ndarray, ...]
    targets: Mapping[str, Any] = field(default_factory=dict)
    source: Any = None
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(ids) for ids in self.ids)


class Form(abc.ABC):
    """How one kind of example meets the model; made once per run from its tokenizer, labels and options.

    Class attributes: `head`, the model's head (None: the encoder alone); `pooler`, whether that reads the pooled first
    token; `outputs`, what `decode` reads of the model's outputs; `token_targets`, per-token targets and their padding;
    `packs`, whether examples may share a row: each is one sequence, of which one vector is read.
    """

    head: ClassVar[str | None]
    pooler: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]]
    token_targets: ClassVar[Mapping[str, float]] = {}
    packs: ClassVar[bool] = False

    def __init__(self, tokenizer: Tokenizer, labels: tuple[str, ...], options: TaskOptions):
        self.tokenizer, self.labels, self.options = tokenizer, labels, options
        self.cut = 0
        """Examples that lost tokens so far; whoever reads examples reports it."""
        self.no_answer_threshold: float | None = None
        """Of forms that may say that there is no answer: from which odds on they do, once that is tuned."""

    @classmethod
    def labels_of(cls, examples: Iterable[Any]) -> tuple[str, ...]:
        """The labels of training examples, in the order of the head's classes; () for forms without."""
        return ()

    def check(self, train: Sequence[Any], dev: Sequence[Any]) -> None:  # noqa: B027 - most forms have nothing to say
        """Look at all examples before training: called once, after reading.

        Warns of what makes a result worth less (a class without examples); errors: `BertJaxError` for what cannot be
        trained or measured, naming file and line.
        """

    @classmethod
    def labelled(cls, example: Any) -> bool:
        """Whether an example says what is right, so that it can be learned from and scored."""
        return any(getattr(example, name, None) is not None for name in ("label", "tags", "spans", "answers"))

    @property
    def classes(self) -> int:
        """How many classes the head is made for."""
        return max(1, len(self.labels))

    def head_bias(self, rows: Sequence[Row]) -> np.ndarray | None:
        """What the bias of a head that is made anew begins as, float32 (C,), given the training rows; None: zeros."""
        return None

    @abc.abstractmethod
    def encode(self, example: Any) -> list[Row]:
        """The rows of one example, with targets where it has labels: one, or several windows.

        Errors: `BertJaxError` naming `example.place`, what came, what was expected and what to do.
        """

    @abc.abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """The loss of each row, float32 (B,): pure, on the device. `batch` holds the rows' targets beside the ids."""

    def answers(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """What `decode` needs of the model's outputs, on the device: by default those named in `outputs`."""
        return {name: outputs[name] for name in self.outputs}

    @abc.abstractmethod
    def decode(self, example: Any, rows: Sequence[Row], outputs: Sequence[Mapping[str, np.ndarray]]) -> Prediction:
        """The prediction for one example from the outputs of its rows, each without the batch axis, (K, …) where the
        form has several sequences, padding included."""


Loss = Callable[[Outputs, Batch], jax.Array]
"""(outputs of the model, batch) → loss of each row, float32 (B,)."""
Metric = Callable[[Sequence[Prediction], Sequence[Any]], Scores]
"""(predictions, examples with labels, in the same order) → scores by name; None where one is not defined."""
Reader = Callable[[str, TaskData], Iterable[Any]]
"""(file, glob or tfds:… , settings) → examples. Errors: `BertJaxError` naming file and line."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One fine-tuning task: a row of the table, or bound to the name `task` in a CONFIG of your own.

    `head`: a row of `tasks.table.FORMS`. `score`: the metric that picks the best step and seed (greater is better).
    `loss`: instead of the form's own. `labels`: names of the classes in order, where they are known beforehand.
    """

    name: str
    head: str
    read: Reader
    metric: Metric
    score: str
    loss: Loss | None = None
    labels: tuple[str, ...] | None = None
