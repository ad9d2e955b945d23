"""Every command of `bert-jax` as a plain function.

Here the rooms are joined; what takes more than a call (data → feed → program → loop → run) is in `pretraining`.

Arguments before the `/` stand without a name on the command line, the others are `--name VALUE`. A function returns
a dict that is JSON, or an iterator of lines. Frameworks are imported inside the functions that need them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bert_jax.config import Config
from bert_jax.data.iterables import Sources
from bert_jax.errors import UsageError
from bert_jax.files import lines_of_stdin
from bert_jax.finetune_config import FinetuneConfig

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert
    from bert_jax.tasks.task import Task


def vocab(
    *,
    source: Sources,
    out: str,
    size: int | None = None,
    kind: Literal["wordpiece", "sentencepiece", "words"] | None = None,
    cased: bool = False,
    sample: str = "2GB",
    min_count: int | None = None,
    compare: Sequence[str] = (),
    extend: str | None = None,
    add: int | None = None,
    workers: int | None = None,
    encoding_errors: Literal["strict", "replace"] = "strict",
) -> dict[str, Any]:
    """Make a vocabulary from text.

    Prints how many pieces a word of held-out text takes, beside the vocabularies named with --compare. With --extend a
    model gets the words that its vocabulary lacks most; the model that comes out is one to go on training with.

    Args:
        source: Where the text is, one place or several (A B, or the option again): files, globs, directories,
            x.jsonl:field, x.parquet:field, tfds:..., stdlib, -. In Python also an iterator of documents, or a list of
            them if each is a list of sentences (strings in a list are names).
        out: Tokenizer directory to make, with --extend a model directory.
        size: Number of entries, exactly (default: 30522).
        kind: wordpiece (BERT, the default), sentencepiece (ALBERT) or words (text that is already encoded).
        cased: Keep upper case and accents.
        sample: Most text to count, in bytes (2GB, 500MB); a deterministic sample of what is there.
        min_count: Least number of times a word must occur, for words (default: 1).
        compare: Other vocabularies (vocab.txt or its directory), for wordpiece, measured on the same held-out words.
        extend: MODEL whose vocabulary gets --add words more, in the places of [unusedN], then in new rows; each starts
            as the mean of the pieces it was.
        add: How many whole words to add: those that save most pieces in the text.
        workers: Processes (default: one per core).
        encoding_errors: What to do with bytes that are not UTF-8.
    """
    from bert_jax.data.counting import parse_bytes, vocabulary_from_source
    from bert_jax.data.sources import open_sources

    opened = open_sources(source, encoding_errors=encoding_errors)
    if (extend is None) != (add is None):
        raise UsageError("--extend MODEL and --add N go together: the model, and how many words it gets")
    if extend is not None and add is not None:
        from bert_jax.formats.extend import extend_model

        own = {"--size": size, "--kind": kind, "--cased": cased or None, "--min-count": min_count}
        for name, given in own.items():
            if given is not None:
                raise UsageError(f"{name} is for a new vocabulary: with --extend it is the model's own; leave it out")
        return extend_model(extend, opened, out, add, parse_bytes(sample), workers)
    return vocabulary_from_source(
        opened,
        out,
        30522 if size is None else size,
        kind or "wordpiece",
        cased,
        sample_bytes=parse_bytes(sample),
        min_count=min_count,
        workers=workers,
        compare=_as_list(compare),
    )


def prepare(
    *,
    source: Sources,
    tokenizer: str,
    out: str,
    eval_fraction: float = 0.01,
    segmenter: str | None = None,
    workers: int | None = None,
    verify: bool = False,
    min_document_sentences: int = 1,
    drop_repeated_lines: bool = False,
    encoding_errors: Literal["strict", "replace"] = "strict",
) -> dict[str, Any]:
    """Turn text into a token store, on all cores.

    Started again after it was killed it goes on with the shards that are not finished.

    Args:
        source: Where the text is, as for `bert-jax vocab`.
        tokenizer: Tokenizer directory.
        out: Token store to make.
        eval_fraction: Share of the documents held out for evaluation.
        segmenter: Chinese whole words: jieba, rjieba, spaces or MODULE:FUNCTION.
        workers: Processes (default: one per core); the store does not depend on it.
        verify: Read the finished store back and compare every checksum.
        min_document_sentences: Leave out documents with fewer sentences.
        drop_repeated_lines: Keep only the first of equal lines.
        encoding_errors: What to do with bytes that are not UTF-8.
    """
    from bert_jax.data.prepare import prepare as make_store

    return make_store(
        source,
        tokenizer,
        out,
        eval_fraction=eval_fraction,
        segmenter=segmenter,
        workers=workers,
        verify=verify,
        min_document_sentences=min_document_sentences,
        drop_repeated_lines=drop_repeated_lines,
        encoding_errors=encoding_errors,
    )


def tokenize(
    *, tokenizer: str, pieces: bool = False, encoding_errors: Literal["strict", "replace"] = "strict"
) -> Iterator[str]:
    """Turn lines on stdin into lines of ids, or of pieces.

    Args:
        tokenizer: Tokenizer directory.
        pieces: Print pieces instead of ids.
        encoding_errors: What to do with bytes that are not UTF-8.
    """
    from bert_jax.text.tokenizer import load_tokenizer, tokenize_lines

    return tokenize_lines(load_tokenizer(tokenizer), lines_of_stdin(encoding_errors), pieces)


def show(
    what: str,
    /,
    *,
    step: int = 0,
    count: int = 3,
    json: bool = False,
    store: str | None = None,
    length: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    whole_words: bool = False,
    packing: int | None = None,
) -> Iterator[str]:
    """Show the very examples a step trains on: pairs, labels, tokens, and what happens to each mask.

    Args:
        what: A run directory, or a token store.
        step: Which step's batch.
        count: How many examples of it.
        json: One JSON object per example instead of text.
        store: Where the store of a run lies now, if it was moved.
        length: Sequence length, for a store (default: 128).
        batch: Sequences (or packed rows) per step, for a store (default: 256).
        seed: Seed, for a store (default: 0).
        whole_words: Mask whole words, for a store.
        packing: Most sequences packed into one row, for a store (default: 1).
    """
    from bert_jax.scale.show import show as show_examples

    return show_examples(
        what,
        step,
        count,
        json=json,
        store=store,
        length=length,
        batch=batch,
        seed=seed,
        whole_words=whole_words,
        packing=packing,
    )


def pretrain(
    config: str | Config,
    /,
    *,
    run: str,
    init: str | None = None,
    change: bool = False,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Pre-train a model; resumes by itself when the run directory holds a checkpoint.

    Every field of the configuration may be set: --section.field VALUE (bert-jax pretrain CONFIG --help lists them).

    Args:
        config: A configuration file, or the name of a shipped one, such as quickstart.
        run: Run directory, made or continued.
        init: MODEL to start a new run from.
        change: Allow a changed schedule in a run that has begun.
        profile: Write a jax trace of steps A:B (counted from this start), as log.profile does.
        overrides: Arguments as on the command line, such as ["--train.steps", "100"].
        on_metrics: Called with every line of metrics.
    """
    from bert_jax.pretraining import pretrain as train_model

    if profile is not None:
        overrides = [*overrides, "--log.profile", profile]
    return train_model(config, Path(run), init=init, change=change, overrides=overrides, on_metrics=on_metrics)


def finetune(
    config: str | FinetuneConfig,
    /,
    *,
    run: str,
    init: str | None = None,
    change: bool = False,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    task: Task | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune a pre-trained model for a task; resumes by itself when the run directory holds a checkpoint.

    Every field of the configuration may be set: --section.field VALUE (bert-jax finetune CONFIG --help lists them).
    The files to train on are --data.train and --data.dev; several seeds, --finetune.seeds 5, are trained side by side.

    Args:
        config: A configuration file, or the name of a shipped one, such as finetune_sst2.
        run: Run directory, made or continued.
        init: MODEL to start a new run from.
        change: Allow a changed schedule in a run that has begun.
        profile: Write a jax trace of steps A:B (counted from this start), as log.profile does.
        overrides: Arguments as on the command line, such as ["--finetune.epochs", "1"].
        task: A task of your own, instead of the one that the configuration names.
        on_metrics: Called with every line of metrics.
    """
    from bert_jax.finetuning import finetune as finetune_model

    if profile is not None:
        overrides = [*overrides, "--log.profile", profile]
    return finetune_model(
        config, Path(run), init=init, task=task, change=change, overrides=overrides, on_metrics=on_metrics
    )


def evaluate(
    model: str,
    /,
    *,
    store: str | None = None,
    split: Literal["eval", "train"] = "eval",
    length: int | None = None,
    batch: int = 64,
    sequences: int = 2048,
    whole_words: bool = False,
    masked_share: float = 0.15,
) -> dict[str, Any]:
    """Score a model on held-out documents, beside what chance would score.

    Pairs and masks come from a fixed seed, and do not depend on how the model was trained: two models are comparable.

    Args:
        model: MODEL: a run directory (RUN, RUN@1000, RUN@best).
        store: Token store (default: the run's own).
        split: Which documents.
        length: Sequence length (default: 128, or the model's longest if that is shorter).
        batch: Sequences per step.
        sequences: Most sequences.
        whole_words: Mask whole words; the scores of both kinds of masks are not comparable.
        masked_share: Share of the tokens to predict.
    """
    from bert_jax.evaluating import evaluate as evaluate_model

    return evaluate_model(
        model,
        store,
        split=split,
        length=length,
        batch=batch,
        sequences=sequences,
        whole_words=whole_words,
        masked_share=masked_share,
    )


def load(model: str | os.PathLike[str], *, cased: bool | None = None, devices: int | None = None) -> Bert:
    """Load a MODEL for predictions and for programs: `.embed`, `.features`, `.fill_mask`, `.apply`, `.params` ...

    `cased` overrides what the model says of its casing; `devices`: how many devices share the rows of a batch (default:
    all accelerators, or one CPU). Errors: `BertJaxError` when nothing is there, or no model.

    >>> bert = bert_jax.load("runs/quickstart")
    >>> bert.params["embeddings"]["word_embeddings"].shape == (bert.config.vocab_size, bert.config.hidden_size)
    True
    """
    from bert_jax.infer.loaded import load as load_bert

    return load_bert(model, cased=cased, devices=devices)


def predict(
    task: Literal[
        "fill-mask",
        "next-sentence",
        "embed",
        "features",
        "attention",
        "senses",
        "classify",
        "tag",
        "relate",
        "extract",
        "answer",
        "choose",
    ],
    model: str,
    texts: tuple[str, ...] = (),
    /,
    *,
    top_k: int | None = None,
    candidates: tuple[str, ...] | None = None,
    pooling: Literal["mean", "cls", "max", "pooler"] | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    layers: str | None = None,
    heads: str | None = None,
    join: Literal["concat", "sum", "mean"] | None = None,
    words: bool = False,
    word: str | None = None,
    context: str | None = None,
    choices: tuple[str, ...] | None = None,
    truncate: bool = False,
    window: int | None = None,
    max_length: int | None = None,
    packing: int | None = None,
    input: str | None = None,
    out: str | None = None,
    cased: bool | None = None,
    devices: int | None = None,
    encoding_errors: Literal["strict", "replace"] = "strict",
) -> Iterator[str]:
    """Answers from a model, one JSON line per input; of senses, one for all.

    Args:
        task: fill-mask (text with [MASK]), next-sentence (text with [SEP] between the two sentences), embed (a vector
            per text), features (a vector per token), attention (what each token looks at, in every layer and head),
            senses (sentences that use one word); of fine-tuned models classify (texts or pairs), tag (words), relate
            (texts with <e1>…</e1> and <e2>…</e2>), extract (spans), answer (questions, with --context or as
            {"question": …, "context": …}), choose (beginnings, with --choices or as {"context": …, "choices": […]}).
        model: MODEL: a run (RUN, RUN@1000), a Hugging Face directory, hf:ORG/NAME, a TF1 checkpoint or its zip.
        texts: The texts; without any, and without --input, lines from stdin.
        top_k: How many pieces for each mask, for fill-mask (default: 5).
        candidates: Only rank these words, for fill-mask.
        pooling: How token vectors become one, for embed (default: the model's own recipe, else mean).
        normalize: Scale vectors to length 1, for embed (default: as the model's own recipe says, else no).
        prompt: What to put before each text, for embed: the name of one of the model's prompts, or the text itself
            (default: the model's default prompt, if it has one).
        layers: Which layers, as -1,-2,-3,-4; for features 0 is the embeddings' output (default: -1, the last), for
            attention 0 is the first layer (default: all).
        heads: Only these heads, counted from 0, as 3,11, for attention.
        join: How several layers become one vector, for features (default: concat).
        words: One vector per word instead of one per token, for features.
        word: The word whose senses are compared, for senses; every sentence must hold it.
        context: The text in which the answers to all questions are looked for, for answer.
        choices: The endings to choose from, for choose.
        truncate: Cut what is longer than the limit (default: an error); pairs lose from the longer side; fill-mask
            keeps the part around its masks, senses that around its word.
        window: Slide over what is longer than the limit, each window this many tokens after the one before, for embed
            and features.
        max_length: The limit in tokens, for embed and features (default: the model's).
        packing: Most inputs in one row of a batch, for embed, classify, next-sentence and choose; the answers are the
            same. Of many short inputs rows are fewer, nearly full, and of one shape (default: on a CPU 8 where that
            takes a tenth fewer places, else 1).
        input: JSON lines to read instead: FILE.jsonl[:field], texts or pairs (text, or a and b); for senses an object
            may hold the word's sense beside its text.
        out: Write the answers to this file instead of stdout, by its suffix: .jsonl for every task, .npy for embed and
            features, .html (a page to look around in) for attention, .png for attention and senses.
        cased: Override the tokenizer's casing.
        devices: How many devices share the rows of a batch (default: all accelerators, or one CPU).
        encoding_errors: What to do with bytes on stdin that are not UTF-8.
    """
    from bert_jax.infer.batching import LIVE_WINDOW
    from bert_jax.infer.verbs import answer_lines, check_out, inputs_of_file, options_of

    given = {"top_k": top_k, "candidates": candidates, "pooling": pooling, "normalize": normalize, "layers": layers}
    given |= {"heads": heads, "prompt": prompt, "context": context, "choices": choices}
    given |= {"join": join, "words": words or None, "word": word, "truncate": truncate or None}
    options = options_of(task, given | {"window": window, "max_length": max_length, "packing": packing})
    check_out(task, out)
    if texts and input is not None:
        raise UsageError("give texts or --input, not both")
    if input is not None:
        inputs: Iterable[Any] = inputs_of_file(input, task)
    else:
        inputs = texts or lines_of_stdin(encoding_errors)
    bert = load(model, cased=cased, devices=devices)
    if not texts and input is None:  # lines of stdin may be typed, and their answers waited for
        bert.first_window = LIVE_WINDOW
    return answer_lines(bert, task, inputs, options, out)


def info(what: str, /, *, verify: bool = False) -> dict[str, Any]:
    """Describe a model, a configuration or a token store.

    Args:
        what: MODEL, CONFIG or token store.
        verify: Read every file of a token store and compare its checksum.
    """
    from bert_jax.scale.info import info as describe

    return describe(what, verify)


def convert(
    model: str, out: str, /, *, to: Literal["hf", "stablehlo"] = "hf", cased: bool | None = None
) -> dict[str, Any]:
    """Write any model for others to read; prints what was taken, renamed, made anew and left out.

    Args:
        model: MODEL, as for `bert-jax predict`.
        out: Directory to make.
        to: hf (a Hugging Face directory, tokenizer included) or stablehlo (a program that runs without bert_jax).
        cased: Override the tokenizer's casing.
    """
    from bert_jax.formats.convert import convert as convert_model

    return convert_model(model, out, to, cased)


def plan(
    config: str | Config,
    /,
    *,
    topology: str | None = None,
    max_batch: bool = False,
    quick: bool = False,
    price: float | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Say whether a configuration fits a TPU slice and how fast it can be there, without the TPU.

    Compiles the very train step of each phase for those chips with libtpu (extra `plan`), on any CPU and with no
    account: memory by kind, what is sent between chips, the bound on time per step and which of matrix units, memory
    and interconnect sets it, days and cost of the run, and what to change if it does not fit. Every field of the
    configuration may be set, --section.field VALUE, as for pretrain: --train.batch 512 --train.remat dots.

    Args:
        config: A configuration file, or the name of a shipped one, such as bert_base_wiki.
        topology: The chips: v5e:4x4 (also v4:2x2x2, v5p:4x4x4, v6e:16x16: chips along each axis), an accelerator type
            (v5litepod-16, v6e-8, v4-32), or GPUs, by formula (h200:8). Several, separated by commas, end with a
            table of what grows with the chips. Default: what the configuration's own text names.
        max_batch: Search the largest batch per chip that fits, with a few more compilations per phase (otherwise it is
            estimated).
        quick: Compile with the least effort: a first answer sooner, with a little more memory than
            the real program takes.
        price: Price of a chip for an hour, in any currency, for the cost of the run.
        overrides: Arguments as on the command line, such as ["--train.batch", "512"].
    """
    from bert_jax.scale.plan import plan as make_plan

    return make_plan(config, topology, max_batch=max_batch, quick=quick, price=price, overrides=overrides)


def bench(
    what: Literal["train", "feed", "prepare", "tokenize", "predict", "suite", "sweep", "scaling", "table"],
    names: str | tuple[str, ...] = (),
    /,
    *,
    store: str | None = None,
    source: Sequence[str] = (),
    tokenizer: str | None = None,
    length: int | None = None,
    batch: int | None = None,
    predictions: int | None = None,
    packing: int | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    dropout: str | None = None,
    accumulation: int | None = None,
    remat: str | None = None,
    attention_dropout: float | None = None,
    mesh: str | None = None,
    steps: int | None = None,
    warmup: int | None = None,
    driver: Literal["thread", "tf"] | None = None,
    workers: int | None = None,
    megabytes: float | None = None,
    tokens: int | None = None,
    texts: int | None = None,
    requests: int | None = None,
    devices: int | None = None,
    seed: int | None = None,
    repeats: int | None = None,
    only: Sequence[str] = (),
    vary: Sequence[str] = (),
    out: str | None = None,
) -> dict[str, Any]:
    """Measure speed on this machine: the train step, the feed, preparation, tokenization or predictions.

    Without arguments on synthetic text drawn from a seed, equal on every machine. suite: six named workloads that stay
    what they are, each in a process of its own; sweep: the train step under every combination of what --vary names;
    scaling: what each device sends in a train step compiled for 1, 2, 4, ... CPU devices; table: the JSON files that
    any of these printed, as Markdown (or, by --out FILE.csv, as CSV).

    Args:
        what: The workload.
        names: CONFIG or preset, for train, sweep and scaling; MODEL or preset, for predict; FILES, for table.
        store: Token store, for real text in train and feed.
        source: Real text, for prepare, tokenize and predict.
        tokenizer: Tokenizer directory, for prepare and tokenize.
        length: Sequence length.
        batch: Sequences (or packed rows) per step, for train and feed; on each device, for scaling.
        predictions: Predictions per sequence, for train and scaling.
        packing: Most sequences packed into one row, for train, feed, scaling and predict (which times it and 1 in
            turn).
        dtype: Compute dtype, for train.
        attention: Attention engine, for train.
        dropout: exact or fast, for train.
        accumulation: Microbatches per step, for train and scaling.
        remat: What the backward pass recomputes (none, dots, full), for train.
        attention_dropout: Of the model, for train; most attention engines need 0.
        mesh: DATAxFSDPxTENSOR, for train (default: the configuration's); the smallest, for scaling (1x1x1).
        steps: Timed steps, for train.
        warmup: Steps before the timed ones, for train.
        driver: Only this driver, for feed.
        workers: Processes, for prepare.
        megabytes: How much text, for tokenize.
        tokens: Size of the synthetic store, for train and feed.
        texts: How many sentences, for predict.
        requests: How many of them one by one, for predict.
        devices: How many devices share a batch, for predict; the most CPU devices pretended, for scaling (8).
        seed: Seed of the synthetic store or text, for train, feed and predict.
        repeats: Timed repetitions, for feed, prepare, tokenize and predict.
        only: Only these workloads, for suite.
        vary: NAME=VALUE,VALUE,... of an option of train (batch, length, attention, packing, mesh, ...), for sweep.
        out: PNG of the speeds, for sweep; .md or .csv file, for table.
    """
    from bert_jax.scale.bench import bench as measure

    return measure(
        what,
        *_as_list(names),
        store=store,
        source=_as_list(source),
        tokenizer=tokenizer,
        length=length,
        batch=batch,
        predictions=predictions,
        packing=packing,
        dtype=dtype,
        attention=attention,
        dropout=dropout,
        accumulation=accumulation,
        remat=remat,
        attention_dropout=attention_dropout,
        mesh=mesh,
        steps=steps,
        warmup=warmup,
        driver=driver,
        workers=workers,
        megabytes=megabytes,
        tokens=tokens,
        texts=texts,
        requests=requests,
        devices=devices,
        seed=seed,
        repeats=repeats,
        only=_as_list(only),
        vary=_as_list(vary),
        out=out,
    )


def doctor(what: str | None = None, /, *, folder: Sequence[str] = (".",), quick: bool = False) -> dict[str, Any]:
    """Say what this machine can run and what will fail on it, each finding with its fix; exit 1 when something will.

    Packages and whether they fit each other, what is missing without an extra, limits, folders, devices, how fast they
    multiply and exchange, a step of a small model.

    Args:
        what: A MODEL (its vocabulary and casing are looked at) or a CONFIG (whether it fits these devices, and how long
            a run takes from a signal to its end).
        folder: Where runs and stores are to lie (A B, or the option again): written to and read back.
        quick: Compute nothing on the devices.
    """
    from bert_jax.scale.doctor import doctor as examine

    return examine(what, _as_list(folder), quick)


def _as_list(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Names; one stands for a list of one: Python callers forget the brackets."""
    return [os.fspath(name) for name in ([given] if isinstance(given, str | os.PathLike) else given)]
