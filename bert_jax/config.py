"""The settings of a pre-training run.

A CONFIG is a Python file that binds `config = Config(...)`, or the name of one that ships with the package. Every
field is of one of four kinds, which say what may differ when a run is started again:

* *free*: where things lie, logging, saving, evaluation, the mesh. Changed at will.
* *numerics*: dtype, attention engine, dropout generator. A change passes with one warning and a history line.
* *schedule*: steps, rates, phases still ahead. Needs `--change`; the history keeps step, old and new value.
* *identity*: model, data, seed, objective, batch. Another value is another run (`--init OLD` starts from this one).

A number's limits stand beside its default: `least` and `most` may be reached, `above` and `below` may not; `none` says
what None stands for, `form` (a test of the value, and words for it) what fits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError

Kind = Literal["free", "numerics", "schedule", "identity"]


def free(default: Any, **limits: Any) -> Any:
    """A field that may differ at any restart."""
    return field(default=default, metadata={"kind": "free", **limits})


def numerics(default: Any, **limits: Any) -> Any:
    """A field that changes rounding or random bits, not what is trained."""
    return field(default=default, metadata={"kind": "numerics", **limits})


def schedule(default: Any, **limits: Any) -> Any:
    """A field that may be changed during a run with `--change`."""
    return field(default=default, metadata={"kind": "schedule", **limits})


def identity(default: Any, **limits: Any) -> Any:
    """A field that makes a run what it is."""
    return field(default=default, metadata={"kind": "identity", **limits})


def step_range(text: str) -> tuple[int, int] | None:
    """`A:B` as two integers, A below B; None when it is not that."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        return None
    return int(first), int(last)


@dataclass(frozen=True)
class Data:
    """What to train on: a token store (or several), or sources from which one is made first."""

    store: tuple[str, ...] = free(())
    """Token stores, each PATH or PATH=WEIGHT for a mixture. Made by `bert-jax prepare`."""
    records: tuple[str, ...] = free(())
    """Files or globs written by google-research/bert's create_pretraining_data.py, instead of a store."""
    max_bad_records: int = identity(0, least=0)
    """Most damaged records of `records` that are set aside when the run begins, and for good; 0: damage stops it."""
    sources: tuple[str, ...] = identity(())
    """SOURCEs from which vocabulary and store are made before training (one process only)."""
    tokenizer: str | None = free(None)
    """Tokenizer directory for `sources` (or for `records`)."""
    vocab_size: int | None = identity(None, least=1)
    """Size of the vocabulary made from `sources` when no tokenizer is named."""
    vocab_kind: Literal["wordpiece", "sentencepiece", "words"] = identity("wordpiece")
    """Kind of the vocabulary made from `sources`."""
    cased: bool = identity(False)
    """Keep case in the vocabulary made from `sources`."""
    segmenter: str | None = identity(None)
    """Word segmenter for Chinese whole words: jieba, rjieba, spaces or MODULE:FUNCTION."""
    eval_fraction: float = identity(0.01, least=0, below=1)
    """Share of the documents held out when a store is made from `sources`."""
    min_document_sentences: int = identity(1, least=1)
    """Drop shorter documents when a store is made from `sources`."""
    drop_repeated_lines: bool = identity(False)
    """Drop lines seen before when a store is made from `sources`."""
    cache: str | None = free(None)
    """Where vocabulary and store made from `sources` are kept (default: RUN/data)."""
    variants: int = identity(10, least=1)
    """How many differently drawn sets of pairs a store gives before they repeat (published: dupe_factor 10)."""
    driver: Literal["auto", "tf", "thread"] = free("auto")
    """What runs the feed: tf.data, a plain prefetching thread, or tf.data where TensorFlow is installed."""
    encoding_errors: Literal["strict", "replace"] = identity("strict")
    """What to do with bytes of `sources` that are not UTF-8."""
    workers: int | None = free(None, least=1)
    """Processes that make vocabulary and store from `sources` (default: one per core)."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own sequence length, batch and number of steps."""

    length: int = field(metadata={"least": 5})
    """Sequence length in tokens."""
    batch: int = field(metadata={"least": 1})
    """Sequences per step (or packed rows), over all devices."""
    steps: int = field(metadata={"least": 1})
    """Number of steps in this phase."""
    predictions: int = field(default=20, metadata={"least": 1})
    """Most masked positions per sequence (published: 20 at 128, 77 at 512)."""
    packing: int = field(default=1, metadata={"least": 1})
    """Most sequences packed into one row; 1: one sequence per row, as published."""
    row_predictions: int | None = field(default=None, metadata={"least": 1})
    """Places for masked positions in a packed row (default: enough for any row)."""
    learning_rate: float | None = field(default=None, metadata={"least": 0})
    """Peak rate of this phase, when it restarts the schedule (default: optimizer.learning_rate)."""
    warmup: float | None = field(default=None, metadata={"least": 0})
    """Warm-up of this phase, when it restarts the schedule (default: optimizer.warmup)."""
    restart: bool = False
    """Begin a schedule (and the optimizer's count) anew here; otherwise one schedule spans all phases."""


_ROWS = (lambda rows: rows == "auto" or rows >= 1, "at least 1, or auto")


@dataclass(frozen=True)
class Train:
    """What is learned, for how long, and with which numerics."""

    length: int = identity(128, least=5)
    """Sequence length in tokens of the first phase."""
    batch: int = identity(256, least=1)
    """Sequences per step (or packed rows) of the first phase, over all devices."""
    predictions: int = identity(20, least=1)
    """Most masked positions per sequence in the first phase."""
    packing: int = identity(1, least=1)
    """Most sequences packed into one row of the first phase; 1: one sequence per row, as published."""
    row_predictions: int | None = numerics(None, least=1)
    """Places for masked positions in a packed row of the first phase (default: enough for any row)."""
    steps: int | None = schedule(None, least=1)
    """Steps of the first phase. Exactly one of steps and minutes is set."""
    minutes: float | None = schedule(None, above=0)
    """Choose the steps by a calibration so that training takes about this many minutes; written into the run."""
    later_phases: tuple[Phase, ...] = schedule(())
    """Further phases, such as length 512 after 128; --train.later-phases.0.length 512 (batch, steps) adds one."""
    objective: Literal["mlm+nsp", "mlm", "mlm+sop"] = identity("mlm+nsp")
    """Masked words with next sentence prediction (published), masked words alone, or with sentence order."""
    masked_share: float = identity(0.15, above=0, most=1)
    """Share of the tokens to predict."""
    whole_words: bool = identity(False)
    """Mask whole words rather than single pieces."""
    short_share: float = identity(0.1, least=0, most=1)
    """Share of the documents cut to a random shorter target length."""
    seed: int = identity(0, least=0, most=2**63 - 1)
    """Seeds parameters, pairs, order, masks and dropout."""
    dtype: Literal["auto", "float32", "bfloat16"] = numerics("auto")
    """Compute dtype; auto: bfloat16 on TPU and GPUs of capability 8.0 and more, float32 elsewhere."""
    dropout: Literal["exact", "fast"] = numerics("exact")
    """exact: the same bits on every mesh and accumulation; fast: the accelerator's own generator."""
    attention: Literal["auto", "einsum", "matmul", "xla", "cudnn", "flash", "splash"] = numerics("auto")
    """Attention engine."""
    scan_layers: bool | None = numerics(None)
    """Compile one layer and scan over it; default: on accelerators, not on CPU (measured faster unrolled)."""
    remat: Literal["none", "dots", "full"] = numerics("none")
    """What the backward pass recomputes to save memory."""
    accumulation: int = numerics(1, least=1)
    """Microbatches per step, their gradients summed: the same step with less memory."""
    sequences_per_chip: int | Literal["auto"] | None = numerics(None, form=_ROWS, none="no ceiling")
    """Most sequences (or packed rows) that one chip holds at once, in training and evaluation: on fewer chips the
    microbatches, at least train.accumulation, become more. auto: from the chip's memory, by formula (None: no ceiling).
    """
    nonfinite_limit: int = free(10, least=1)
    """Stop after this many non-finite updates in a row (each is skipped and counted)."""


@dataclass(frozen=True)
class Optimizer:
    """The update rule and its schedule."""

    name: Literal["bert_adam", "adamw", "lamb"] = identity("bert_adam")
    """bert_adam: Adam without bias correction, as published; adamw; lamb for very large batches."""
    learning_rate: float = schedule(1e-4, least=0)
    """Peak rate."""
    warmup: float = schedule(0.01, least=0)
    """Linear warm-up: a share of the steps below 1, a number of steps from 1."""
    decay: Literal["linear", "polynomial", "cosine", "constant", "wsd"] = schedule("linear")
    """Shape after warm-up; wsd: warm-up, stable, then linear decay."""
    decay_power: float = schedule(1.0, above=0)
    """Power of the polynomial decay."""
    decay_from: Literal["start", "warmup"] = schedule("start")
    """Where decay is counted from: step 0 beneath the warm-up (published), or the warm-up's end."""
    decay_share: float = schedule(0.2, above=0, most=1)
    """Share of the steps that decay in wsd."""
    end_learning_rate: float = schedule(0.0, least=0)
    """Rate at the last step."""
    b1: float = schedule(0.9, least=0, below=1)
    """Decay of the first moment."""
    b2: float = schedule(0.999, least=0, below=1)
    """Decay of the second moment."""
    eps: float = schedule(1e-6, above=0)
    """Added to the root of the second moment."""
    weight_decay: float = schedule(0.01, least=0)
    """Decoupled weight decay, off LayerNorm and biases."""
    clip_norm: float | None = schedule(1.0, above=0, none="no clipping")
    """Clip the global gradient norm to this (None: no clipping)."""


_DEVICES = (lambda number: number == -1 or number >= 1, "at least 1, or -1 for what is left")


@dataclass(frozen=True)
class Mesh:
    """How devices are laid out; -1 takes what is left."""

    data: int = free(-1, form=_DEVICES)
    """Devices over which the batch is split, parameters repeated."""
    fsdp: int = free(1, form=_DEVICES)
    """Devices over which the batch and the parameters are both split."""
    tensor: int = free(1, form=_DEVICES)
    """Devices over which heads, feed-forward width and vocabulary are split."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluation on held-out documents while training."""

    every: int | None = free(None, least=1)
    """Steps between evaluations (default: a tenth of the run); one always follows the last step."""
    sequences: int = free(2048, least=1)
    """Most sequences per evaluation."""
    batch: int | None = free(None, least=1)
    """Sequences per evaluation batch (default: the phase's)."""
    stores: tuple[str, ...] = free(())
    """Further stores to evaluate, each NAME=PATH; their metrics carry the name."""


@dataclass(frozen=True)
class Checkpoint:
    """When the run is saved."""

    every: int = free(1000, least=1)
    """Steps between checkpoints; one always follows the last step."""
    keep: int = free(3, least=1)
    """Newest checkpoints kept."""
    keep_every: int | None = free(None, least=1)
    """Also keep every checkpoint whose step is a multiple of this."""


@dataclass(frozen=True)
class Log:
    """What is written while training."""

    every: int = free(50, least=1)
    """Steps between lines in metrics.jsonl."""
    tensorboard: bool = free(True)
    """Also write TensorBoard event files."""
    profile: str | None = free(None, form=(step_range, "A:B, two step numbers with A < B, such as 10:20"))
    """Write a jax trace of steps A:B (counted from the start of this process) under RUN/profile."""
    watchdog_seconds: float | None = free(1800.0, above=0, none="no watchdog")
    """End with exit 76, stacks printed and nothing saved, when no step was done for so long; the start, an evaluation
    and a save may take four times as long (None: never)."""


EXCLUSIVE = (("train.steps", "train.minutes"), ("data.store", "data.sources", "data.records"))
"""Fields of which exactly one is set: one that is given on the command line takes the place of another in the file."""


class Span(NamedTuple):
    """The steps [begin, end) of one phase, counted over the whole run."""

    phase: int
    begin: int
    end: int


@dataclass(frozen=True)
class Config:
    """One pre-training run."""

    model: BertConfig = field(default_factory=BertConfig)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    optimizer: Optimizer = field(default_factory=Optimizer)
    mesh: Mesh = field(default_factory=Mesh)
    evaluate: Evaluate = field(default_factory=Evaluate)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases in order; `train.steps` must be known."""
        train = self.train
        if train.steps is None:
            raise BertJaxError("train.steps is not set: give --train.steps N, or --train.minutes N to have it chosen")
        first = Phase(train.length, train.batch, train.steps, train.predictions, train.packing, train.row_predictions)
        return (first, *train.later_phases)

    @property
    def later_phases(self) -> tuple[Phase, ...]:
        """The phases after the first."""
        return self.train.later_phases

    @property
    def nonfinite_limit(self) -> int:
        """Stop after this many non-finite updates in a row."""
        return self.train.nonfinite_limit

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where each phase begins and ends, in steps of the whole run."""
        ends = itertools.accumulate(phase.steps for phase in self.phases)
        return tuple(
            Span(index, end - phase.steps, end)
            for index, (phase, end) in enumerate(zip(self.phases, ends, strict=True))
        )

    def span_at(self, step: int) -> Span:
        """The span that step `step` belongs to; the last one at the end of the run."""
        return next((span for span in self.spans if step < span.end), self.spans[-1])

    @property
    def total_steps(self) -> int:
        """Steps of all phases together."""
        return self.spans[-1].end
