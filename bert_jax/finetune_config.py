"""The settings of a fine-tuning run; fields are of the same four kinds as those of pre-training (see config.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bert_jax.config import (
    Checkpoint,
    Config,
    Log,
    Mesh,
    Optimizer,
    Span,
    free,
    identity,
    numerics,
    schedule,
)
from bert_jax.errors import BertJaxError


@dataclass(frozen=True)
class TaskData:
    """Where the examples are and how they are read. Which forms a task reads stands in docs/finetuning.md."""

    train: tuple[str, ...] = free(())
    """Files, globs or tfds:name[/config]:split to train on."""
    dev: tuple[str, ...] = free(())
    """The same to choose the best by, and to stop by; without, dev_share of train is held out."""
    test: tuple[str, ...] = free(())
    """The same to predict once training has ended; labels, where there are any, are scored."""
    dev_share: float = identity(0.1, above=0, below=1)
    """Share of train held out, by a hash of the texts (of questions: their contexts), where no dev is given."""
    text: str | None = identity(None)
    """Column (name, or number from 0) of the text, or of the first of a pair."""
    pair: str | None = identity(None)
    """Column of the second text of a pair."""
    label: str | None = identity(None)
    """Column of the label, the score, the tags or the spans."""
    header: bool | None = identity(None)
    """Whether the first line of a table names its columns (default: as the task's files are published)."""
    examples: int | None = identity(None, least=1)
    """At most this many examples to train on, the first ones."""
    on_error: Literal["stop", "skip"] = identity("stop")
    """What to do with an example that cannot be used, such as an answer that is not at its offset."""


@dataclass(frozen=True)
class TaskOptions:
    """What is learned, and how texts become rows of tokens."""

    name: str = identity("classification")
    """A task (docs/finetuning.md has the table; a wrong name lists them), or the name of the CONFIG's own."""
    length: int = identity(128, least=8)
    """Longest row in tokens, specials included."""
    head_tail: bool = identity(False)
    """Cut too long single texts in the middle (a quarter of the room is for their beginning), not at the end."""
    threshold: float = identity(0.5, above=0, below=1)
    """Probability from which a label of several, or a span's begin or end, is predicted."""
    document_context: bool = identity(False)
    """Tagging: fill rows with the sentences around (in documents), whose tags are not scored."""
    doc_stride: int = identity(128, least=1)
    """Question answering: tokens from the beginning of one window to that of the next."""
    query_length: int = identity(64, least=1)
    """Question answering: most tokens of a question."""
    answer_length: int = identity(30, least=1)
    """Question answering: most tokens of an answer."""
    n_best: int = identity(20, least=1)
    """Question answering: how many begins and ends are combined, and answers given."""
    pooling: Literal["mean", "cls", "max", "pooler"] = identity("mean")
    """Sentence embeddings: how token vectors become one."""
    scale: float = identity(20.0, above=0)
    """Sentence embeddings: factor on cosines of in-batch negatives."""


@dataclass(frozen=True)
class Finetune:
    """How it trains."""

    epochs: float = schedule(3.0, above=0)
    """Passes over the training examples."""
    steps: int | None = schedule(None, least=1)
    """Steps instead of epochs."""
    batch: int = identity(32, least=1)
    """Examples per step, over all devices."""
    seed: int = identity(0, least=0, most=2**32 - 1)
    """The first seed: of new parameters, order and dropout."""
    seeds: int = identity(1, least=1)
    """How many seeds (seed, seed + 1, …) are trained side by side."""
    learning_rates: tuple[float, ...] = identity((), none="optimizer.learning_rate")
    """Peak rates to try side by side, each with every seed (default: optimizer.learning_rate alone)."""
    side_by_side: int | None = free(None, least=1)
    """Most runs in one program; the others follow in groups (default: as many as memory holds, one on CPU)."""
    buckets: tuple[int, ...] = identity((16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512))
    """Row lengths; examples of like length share a batch. Empty: every row has task.length."""
    packing: int = identity(1, least=1)
    """Most examples that share a row of task.length tokens, for texts and pairs with a label, labels or a score; 1: one
    per row, of finetune.buckets. finetune.batch counts examples all the same, which take fewer rows."""
    patience: int | None = schedule(None, least=1)
    """Stop after this many evaluations without a better one (default: train to the end)."""
    layer_decay: float = identity(1.0, above=0, most=1)
    """Factor on the learning rate per layer downwards from the head."""
    frozen_layers: int = identity(0, least=0)
    """How many of the lowest layers stay as they are; with any, the embeddings do too."""
    reinit_layers: int = identity(0, least=0)
    """How many of the top layers, and the pooler, begin anew."""
    from_scratch: bool = identity(False)
    """Draw all parameters anew: what the model given by --init is worth shows beside it."""
    dropout: float | None = identity(None, least=0, below=1)
    """Dropout of hidden states (default: the model's own)."""
    attention_dropout: float | None = identity(None, least=0, below=1)
    """Dropout of attention probabilities (default: the model's own)."""
    dtype: Literal["auto", "float32", "bfloat16"] = numerics("auto")
    """Compute dtype; auto: bfloat16 on TPU and GPUs of capability 8.0 and more, float32 elsewhere."""
    generator: Literal["exact", "fast"] = numerics("exact")
    """Dropout generator. exact: the same bits whatever the mesh and however many seeds run side by side."""
    attention: Literal["auto", "einsum", "matmul", "xla", "cudnn", "flash", "splash"] = numerics("auto")
    """Attention engine."""
    scan_layers: bool | None = numerics(None)
    """Compile one layer and scan over it; default: on accelerators, not on CPU."""
    remat: Literal["none", "dots", "full"] = numerics("none")
    """What the backward pass recomputes to save memory."""
    nonfinite_limit: int = free(10, least=1)
    """Stop after this many non-finite updates in a row (each is skipped and counted)."""


@dataclass(frozen=True)
class Scoring:
    """Scoring of the dev set while training, all of it each time."""

    every: int | None = free(None, least=1)
    """Steps between evaluations (default: once per epoch); one always follows the last step."""
    batch: int | None = free(None, least=1)
    """Rows per evaluation batch, packed ones too (default: finetune.batch)."""


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run, or several side by side that differ in seed and learning rate."""

    task: TaskOptions = field(default_factory=TaskOptions)
    data: TaskData = field(default_factory=TaskData)
    finetune: Finetune = field(default_factory=Finetune)
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(name="adamw", learning_rate=2e-5, warmup=0.1, decay_from="warmup")
    )
    mesh: Mesh = field(default_factory=Mesh)
    evaluate: Scoring = field(default_factory=Scoring)
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(keep=1))
    log: Log = field(default_factory=Log)

    @property
    def spans(self) -> tuple[Span, ...]:
        """All steps are one stretch; `finetune.steps` must be known."""
        if self.finetune.steps is None:
            raise BertJaxError("finetune.steps is not known yet: it follows from the training examples")
        return (Span(0, 0, self.finetune.steps),)

    @property
    def later_phases(self) -> tuple[()]:
        """There are none."""
        return ()

    @property
    def nonfinite_limit(self) -> int:
        """Stop after this many non-finite updates in a row."""
        return self.finetune.nonfinite_limit

    def span_at(self, step: int) -> Span:
        """The one span."""
        return self.spans[0]

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return self.spans[-1].end


AnyConfig = Config | FinetuneConfig
"""What a run directory is made by."""
