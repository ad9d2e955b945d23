"""`bench predict`: sentence vectors of many texts, and the latency of one request at a time."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.bert_config import PRESETS, BertConfig
from bert_jax.console import log, progress
from bert_jax.data.synthetic import write_synthetic_text
from bert_jax.errors import BertJaxError
from bert_jax.formats.model import LoadedModel
from bert_jax.infer.batching import Encoded
from bert_jax.infer.loaded import Bert, load
from bert_jax.model.attention import choose
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.model.flops import forward_flops, peak_flops
from bert_jax.scale.bench_record import device_figures, percentiles, record, spread
from bert_jax.scale.bench_tokenize import documents_of
from bert_jax.text.tokenizer import SPECIAL_PIECES, Tokenizer, WordPieceTokenizer

DEFAULT_PRESET = "mini"
_SYNTHETIC_MEGABYTES = 1.0
_MOST_WORDS = 30000  # of the text: the vocabulary of a model that has none of its own


def bench_predict(
    *,
    config: str | None = None,
    source: Iterable[str] = (),
    texts: int = 2000,
    requests: int = 200,
    repeats: int = 3,
    length: int | None = None,
    packing: int | None = None,
    devices: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Sentences per second of `embed` over the first `texts` sentences of `source`, and seconds of single requests.

    `config` is a MODEL, or a preset with parameters drawn from `seed` (default: `mini`); without `source` the text is
    drawn too. From text to vectors, tokenization included, too long ones cut; each of `repeats` passes is over the
    same texts, after one that compiles (`compile_seconds` is what that one took more). `seconds_p50` and its like are
    of `requests` single texts, evenly taken, after a pass over the same ones. `mfu` counts real tokens.
    `length`: all texts are cut to this many tokens, from sentences joined so that they have as many.
    `packing`: the most texts in a row (default: as `embed` has it); where it is given `speeds_unpacked` and
    `padding_share_unpacked` are of as many passes with one text in a row, one of each in turn.
    """
    with tempfile.TemporaryDirectory() as cache:
        sentences = _sentences(list(source), texts * (length or 1), Path(cache), seed)
        bert = _model(config, sentences, seed, devices)
    if length is not None:
        sentences = _joined(bert, sentences, texts, length)
    return record(
        "predict", **_figures(bert, sentences, requests, repeats, length, packing), model=config or DEFAULT_PRESET
    )


def _sentences(source: Sequence[str], count: int, cache: Path, seed: int) -> list[str]:
    """The first `count` sentences of the sources, or of synthetic text."""
    if not source:
        log(f"drawing {_SYNTHETIC_MEGABYTES:g} MB of synthetic text; --source PATH names a real one instead")
        write_synthetic_text(cache / "synthetic.txt", seed, _SYNTHETIC_MEGABYTES)
        source = [str(cache / "synthetic.txt")]
    every = itertools.chain.from_iterable(documents_of(source))
    found = list(itertools.islice(every, count))
    if not found:
        raise BertJaxError(f"{', '.join(source)} holds no text to embed")
    return found


def _model(name: str | None, sentences: Sequence[str], seed: int, devices: int | None) -> Bert:
    """The MODEL, or a preset with drawn parameters, and the words of the very sentences as its vocabulary."""
    if name is not None and name not in PRESETS:
        return load(name, devices=devices)
    words = Counter(word for sentence in sentences for word in sentence.lower().split())
    entries = [word for word, _ in words.most_common(_MOST_WORDS) if word not in SPECIAL_PIECES.values()]
    tokenizer = WordPieceTokenizer([*SPECIAL_PIECES.values(), *entries], cased=False)
    return drawn(BertConfig.preset(name or DEFAULT_PRESET), tokenizer, seed, devices)


def drawn(config: BertConfig, tokenizer: Tokenizer, seed: int, devices: int | None = None) -> Bert:
    """A model of drawn parameters, no heads; numpy draws them, which compiles nothing."""
    random = np.random.default_rng(seed)
    shapes = abstract_parameters(make_model(config, heads=()))
    params = jax.tree.map(lambda leaf: random.normal(0, 0.02, leaf.shape).astype(leaf.dtype), shapes)
    source = LoadedModel(
        config=config, params=params, tokenizer=tokenizer, kind="drawn", path=Path("drawn"), step=None, heads=()
    )
    return Bert(source, devices=devices)


def _joined(bert: Bert, sentences: Sequence[str], count: int, length: int) -> list[str]:
    """The first `count` texts of at least `length` tokens, specials included, of one sentence after the other."""
    found, words, tokens = [], list[str](), 2
    for sentence in sentences:
        words.append(sentence)
        tokens += len(bert.tokenizer.ids(sentence))
        if tokens >= length:
            found.append(" ".join(words))
            words, tokens = [], 2
            if len(found) == count:
                break
    if len(found) < count:
        raise BertJaxError(f"the text gives {len(found)} texts of {length} tokens, not {count}: give more, or --texts")
    return found


def _figures(
    bert: Bert, sentences: list[str], requests: int, repeats: int, length: int | None, packing: int | None
) -> dict[str, Any]:
    kinds = (None,) if packing is None else tuple({1, packing})
    first = {kind: _seconds(bert, sentences, length, kind) for kind in kinds}
    timed: dict[int | None, list[float]] = {kind: [] for kind in kinds}
    with progress("timing", repeats, "passes") as advance:
        for number in range(repeats):
            for kind in kinds:
                timed[kind].append(_seconds(bert, sentences, length, kind))
            advance(number + 1)
    speeds = {kind: spread([len(sentences) / seconds for seconds in timed[kind]]) for kind in kinds}
    asked = sentences[:: max(1, len(sentences) // requests)][:requests]
    for text in asked:  # compiles single rows of every length asked for
        bert.embed(text, truncate=True, max_length=length)
    alone = percentiles([_seconds(bert, text, length) for text in asked])
    median = float(np.median(timed[packing]))
    lengths = _lengths(bert, sentences, length)
    real_tokens = sum(lengths)
    devices = bert.placing.devices
    peak = peak_flops(devices[0].device_kind, len(devices))
    engine = choose(bert.module.attention, devices[0].platform, max(lengths), bert.config.head_size, False).engine
    flops = float(forward_flops(bert.config, _sums(lengths)))
    unpacked = {"speeds_unpacked": speeds.get(1), "padding_share_unpacked": _padding_share(bert, lengths, 1)}
    return {
        "sequences_per_second": len(sentences) / median,
        "real_tokens_per_second": real_tokens / median,
        "mfu": None if peak is None else flops / (median * peak),
        **alone,
        "step_seconds_median": None,  # there are no steps: a pass has batches of many shapes
        **device_figures(),
        "devices": len(devices),
        "compile_seconds": max(0.0, first[packing] - median),
        "dtype": str(bert.module.dtype),
        "attention_engine": engine,
        "flops_per_sequence": flops / len(sentences),
        "texts": len(sentences),
        "length": length,
        "requests": len(asked),
        "real_tokens": real_tokens,
        "packing": packing,
        "padding_share": _padding_share(bert, lengths, packing),
        "speeds": speeds[packing],
        **({} if packing is None else unpacked),
    }


def _seconds(bert: Bert, texts: str | list[str], length: int | None, packing: int | None = None) -> float:
    start = time.perf_counter()
    bert.embed(texts, truncate=True, max_length=length, packing=packing)
    return time.perf_counter() - start


def _lengths(bert: Bert, sentences: Sequence[str], length: int | None) -> list[int]:
    """Real tokens of each, specials included, as many as are computed."""
    recipe = bert.source.pooling
    limit = min(bert.config.max_position_embeddings, length or (recipe and recipe.max_length) or 10**9)
    return [min(len(bert.tokenizer.ids(sentence)) + 2, limit) for sentence in sentences]


def _sums(lengths: Sequence[int]) -> dict[str, int]:
    """What the count of FLOPs asks for."""
    squared = sum(length * length for length in lengths)
    return {"real_tokens": sum(lengths), "real_tokens_squared": squared, "mlm_count": 0, "sequences": 0}


def _padding_share(bert: Bert, lengths: Sequence[int], packing: int | None) -> float:
    """Share of the places of all batches that hold no token; the very batches, but nothing is computed."""
    places = 0

    def count(batch: dict[str, Any], items: list[Encoded]) -> list[None]:
        nonlocal places
        places += batch["input_ids"].size
        return [None] * len(items)

    drawn_up = (Encoded([0] * length, [0] * length) for length in lengths)
    for _ in bert.answers(drawn_up, count, packing=packing):
        pass
    return 1 - sum(lengths) / places
