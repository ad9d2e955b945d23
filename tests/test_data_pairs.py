"""The walk equals the published one: rule by rule, and in distribution against a slow reference."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from data_stores import drawn_documents, lengths_store

from bert_jax.data import pairs
from bert_jax.data.pairs import Walk, count_rows, make_rows
from bert_jax.data.spans import Spans, decode_rows
from bert_jax.errors import BertJaxError
from bert_jax.text.tokenizer import WordPieceTokenizer

SIGMAS = 4.5

Documents = list[list[list[int]]]
Instance = tuple[list[int], list[int], bool]


def published_instances(
    documents: Documents, number: int, length: int, short: float, rng: random.Random
) -> list[Instance]:
    """(A, B, random) of one document, sentence by sentence and token by token, as the rules are published."""
    document, room = documents[number], length - 3
    target = rng.randint(2, room) if rng.random() < short else room
    instances, at = [], 0
    while at < len(document):
        stop = at
        while stop < len(document) - 1 and sum(map(len, document[at : stop + 1])) < target:
            stop += 1
        chunk = document[at : stop + 1]
        cut = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        first, second = list(chain(*chunk[:cut])), list(chain(*chunk[cut:]))
        is_random = len(chunk) == 1 or rng.random() < 0.5
        at = stop + 1
        if is_random:
            at -= len(chunk) - cut
            for _ in range(10):
                other = rng.randint(0, len(documents) - 1)
                if other != number:
                    break
            second = []
            for sentence in documents[other][rng.randint(0, len(documents[other]) - 1) :]:
                second = second + sentence
                if len(second) >= target - len(first):
                    break
        while len(first) + len(second) > room:
            longer = first if len(first) > len(second) else second
            longer.pop(0 if rng.random() < 0.5 else -1)
        instances.append((first, second, is_random))
    return instances


def features(
    a0: np.ndarray, in_a: np.ndarray, b0: np.ndarray, in_b: np.ndarray, label: np.ndarray, room: int
) -> list[float]:
    """Sums over one draw of the whole corpus; what is compared between the two implementations."""
    full = in_a + in_b == room
    terms = [np.ones(len(a0)), label, in_a, in_b, in_a**2, in_b**2, in_a * label, in_b * label, a0, b0, b0 * label]
    terms += [full, full * label, a0 % 7 == 3, b0 % 7 == 3, (b0 - a0) ** 2 * label, in_a == 1, in_b < 5, a0 * in_a]
    return [float(np.sum(term)) for term in terms]


def published_features(documents: Documents, length: int, short: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    found = [i for number in range(len(documents)) for i in published_instances(documents, number, length, short, rng)]
    columns = [(a[0], len(a), b[0], len(b), int(label)) for a, b, label in found]
    return features(*np.array(columns, np.int64).T, length - 3)


def plan_features(store: object, walk: Walk, variant: int) -> list[float]:
    spans = decode_rows(np.concatenate(list(make_rows(store, walk, 7, variant))))
    return features(
        spans.a0, spans.a1 - spans.a0, spans.b0, spans.b1 - spans.b0, spans.label.astype(np.int64), walk.room
    )


def assert_same_means(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Welch's test per column, (draws, features) each; and variances within what so many draws allow."""
    error = np.sqrt(ours.var(axis=0, ddof=1) / len(ours) + theirs.var(axis=0, ddof=1) / len(theirs))
    z = np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / np.maximum(error, 1e-9)
    assert z.max() < SIGMAS, dict(enumerate(z.round(1).tolist()))
    ratio = np.log(np.maximum(ours.var(axis=0), 1e-9) / np.maximum(theirs.var(axis=0), 1e-9))
    assert np.abs(ratio).max() < 0.5, ratio.round(2)


def numbered(documents: list[list[int]]) -> Documents:
    """Documents of distinct tokens 0, 1, 2, …: a token says where it stands."""
    tokens = iter(range(sum(map(sum, documents))))
    return [[[next(tokens) for _ in range(size)] for size in document] for document in documents]


@pytest.fixture(scope="module")
def sample(data_dir: Path) -> list[list[int]]:
    """Sentence lengths of sample_text.txt under the official uncased vocabulary."""
    lines = (data_dir / "vocab" / "bert_base_uncased.txt").read_text("utf-8").splitlines()
    tokenizer = WordPieceTokenizer(lines, cased=False)
    texts = (data_dir / "corpus" / "sample_text.txt").read_text("utf-8").split("\n\n")
    found = [[len(tokenizer.ids(line)) for line in text.splitlines()] for text in texts]
    return [[size for size in document if size] for document in found if any(document)]


@pytest.mark.parametrize("length", [64, 128])
def test_equals_the_published_walk_on_sample_text(sample: list[list[int]], tmp_path: Path, length: int) -> None:
    store = lengths_store(tmp_path / "store", sample).split("train")
    walk = Walk(length)
    ours = np.array([plan_features(store, walk, variant) for variant in range(300)])
    theirs = np.array([published_features(numbered(sample), length, 0.1, seed) for seed in range(300)])
    assert_same_means(ours, theirs)


def test_equals_the_published_walk_on_hostile_lengths(tmp_path: Path) -> None:
    """One-token sentences, sentences longer than an example, one-sentence documents, many short targets, shards."""
    documents = [[1], [60, 1, 1, 1], [1] * 9, [3, 40, 3, 2, 1], [25], [2, 2, 90]]
    store = lengths_store(tmp_path / "store", documents, shards=2).split("train")
    in_shards = [*documents[::2], *documents[1::2]]
    ours = np.array([plan_features(store, Walk(24, short_share=0.5), variant) for variant in range(500)])
    theirs = np.array([published_features(numbered(in_shards), 24, 0.5, seed) for seed in range(500)])
    assert_same_means(ours, theirs)


def test_equals_the_published_walk_when_all_targets_are_short(tmp_path: Path) -> None:
    """Random segments stop at the document's own target, not at the room there is."""
    documents = [[2] * 12, [3] * 9, [1] * 20, [2, 4] * 5]
    store = lengths_store(tmp_path / "store", documents).split("train")
    ours = np.array([plan_features(store, Walk(24, short_share=1.0), variant) for variant in range(300)])
    theirs = np.array([published_features(numbered(documents), 24, 1.0, seed) for seed in range(300)])
    assert_same_means(ours, theirs)


def test_a_single_document_is_its_own_random_partner(tmp_path: Path) -> None:
    store = lengths_store(tmp_path / "store", [[5, 6, 7]]).split("train")
    ours = np.array([plan_features(store, Walk(32), variant) for variant in range(300)])
    theirs = np.array([published_features(numbered([[5, 6, 7]]), 32, 0.1, seed) for seed in range(300)])
    assert_same_means(ours, theirs)


def test_official_instances_look_like_ours(data_dir: Path, sample: list[list[int]], tmp_path: Path) -> None:
    """What google's program made of sample_text.txt: counts and lengths lie where our draws of equal size lie."""
    folder = data_dir / "golden" / "pretraining_data"
    settings = json.loads((folder / "sample_text_uncased.config.json").read_text())
    made = [json.loads(line) for line in (folder / "sample_text_uncased.jsonl").read_text().splitlines()]
    in_b = np.array([sum(one["segment_ids"]) - 1 for one in made])
    in_a = np.array([len(one["tokens"]) - 3 for one in made]) - in_b
    theirs = np.array([len(made), sum(one["is_random_next"] for one in made), in_a.sum(), in_b.sum()])
    store = lengths_store(tmp_path / "store", sample).split("train")
    draws = np.array([plan_features(store, Walk(settings["max_seq_length"]), variant)[:4] for variant in range(500)])
    sums = draws.reshape(-1, settings["dupe_factor"], 4).sum(axis=1)
    assert (np.abs(theirs - sums.mean(axis=0)) < SIGMAS * sums.std(axis=0)).all(), (theirs, sums.mean(axis=0))
    assert (in_a + in_b).max() <= Walk(settings["max_seq_length"]).room


def test_random_share_is_p1_and_half_the_rest(tmp_path: Path) -> None:
    store = lengths_store(tmp_path / "store", drawn_documents(2_000)).split("train")
    walk = Walk(64)
    alone = several = several_random = alone_random = 0
    for block in pairs._blocks(store, walk, 1, 0):
        for starts in pairs._walk(block, walk):
            chunks = pairs._chunks(block, walk, starts)
            single = chunks.stops == chunks.starts
            alone += int(single.sum())
            alone_random += int((single & chunks.is_random).sum())
            several += int((~single).sum())
            several_random += int((~single & chunks.is_random).sum())
    label = decode_rows(np.concatenate(list(make_rows(store, walk, 1, 0)))).label
    assert alone_random == alone > 100
    assert abs(several_random - several / 2) < SIGMAS * math.sqrt(several) / 2
    share = alone / (alone + several)
    bound = SIGMAS * math.sqrt(several) / 2 / len(label)
    assert abs(label.mean() - (share + (1 - share) / 2)) < bound


@pytest.mark.parametrize("objective", pairs.OBJECTIVES)
def test_lock_step_and_chase_agree(objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to follow a walk, one result; and the counting pass counts what the other makes."""
    store = lengths_store(tmp_path / "store", drawn_documents(60), shards=3).split("train")
    walk = Walk(48, objective)
    found = []
    for price, size in [(0, 1 << 17), (1e9, 1 << 17), (1e9, 7), (500, 40)]:
        monkeypatch.setattr(pairs, "_LOCK_STEP_PRICE", price)
        monkeypatch.setattr(pairs, "_SLICE", size)
        spans = decode_rows(np.concatenate(list(make_rows(store, walk, 3, 1))))
        found.append(np.stack([spans.a0, spans.label]) if size == 1 << 17 else np.stack([spans.a0, spans.label])[:, :0])
        assert count_rows(store, walk, 3, 1) == len(spans.a0)
    assert np.array_equal(found[0], found[1])
    assert found[0].size


@pytest.mark.parametrize("objective", pairs.OBJECTIVES)
def test_segments_are_sound_in_blocks_of_any_size(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = drawn_documents(200, seed=1)
    store = lengths_store(tmp_path / "store", documents, shards=3).split("train")
    stops = np.cumsum([sum(document) for shard in range(3) for document in documents[shard::3]])
    walk = Walk(40, objective)
    for size in (1, 30, 1 << 18):
        monkeypatch.setattr(pairs, "_BLOCK_SENTENCES", size)
        spans = decode_rows(np.concatenate(list(make_rows(store, walk, 3, 1))))
        in_a, in_b = spans.a1 - spans.a0, spans.b1 - spans.b0
        assert in_a.min() >= 1
        assert (in_a + in_b).max() == walk.room
        document_a = np.searchsorted(stops, spans.a0, side="right")
        assert np.array_equal(document_a, np.searchsorted(stops, spans.a1 - 1, side="right"))
        if objective == "mlm":
            assert not in_b.any()
            continue
        document_b = np.searchsorted(stops, spans.b0, side="right")
        assert np.array_equal(document_b, np.searchsorted(stops, spans.b1 - 1, side="right"))
        assert in_b.min() >= 1
        same = document_a == document_b
        assert same[spans.label == 0].all()
        assert same[spans.label == 1].all() if objective == "mlm+sop" else not same[spans.label == 1].any()
        if objective == "mlm+sop":
            in_order = spans.a0 < spans.b0
            assert np.array_equal(in_order, spans.label == 0)
            assert abs(spans.label.mean() - 0.5) < SIGMAS / 2 / math.sqrt(len(spans.label))
        assert set(document_a) >= set(range(200)) - {d for d in range(200) if objective == "mlm+sop"}


def test_mlm_alone_loses_no_text_but_the_overflow(tmp_path: Path) -> None:
    """A sentence of several lengths becomes several examples, all but the last full."""
    store = lengths_store(tmp_path / "store", [[1_000], [4, 4, 4]]).split("train")
    spans = decode_rows(np.concatenate(list(make_rows(store, Walk(32, "mlm", short_share=0.0), 3, 1))))
    assert spans.a0.tolist() == [*range(0, 1_000, 30), 1_000]
    assert (spans.a1 - spans.a0).tolist() == [30] * 33 + [10, 12]


def test_sentence_order_cuts_a_lone_sentence(tmp_path: Path) -> None:
    store = lengths_store(tmp_path / "store", [[4], [1], [2]]).split("train")
    cuts = Counter()
    for variant in range(300):
        spans = decode_rows(np.concatenate(list(make_rows(store, Walk(16, "mlm+sop"), 3, variant))))
        low, high = np.minimum(spans.a0, spans.b0), np.maximum(spans.a1, spans.b1)
        assert low.tolist() == [0, 5]
        assert high.tolist() == [4, 7]
        cuts[int(np.maximum(spans.a0, spans.b0)[0])] += 1
    assert sorted(cuts) == [1, 2, 3]
    assert max(abs(count - 100) for count in cuts.values()) < SIGMAS * 10


def test_variants_and_seeds_differ_and_repeat(tmp_path: Path) -> None:
    store = lengths_store(tmp_path / "store", drawn_documents(30)).split("train")
    rows = [np.concatenate(list(make_rows(store, Walk(64), *key))) for key in [(1, 0), (1, 1), (2, 0), (1, 0)]]
    assert np.array_equal(rows[0], rows[3])
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])


class Shifted:
    """A split whose tokens are numbered from 2³³ on, as one behind many shards."""

    def __init__(self, split: object):
        self._split = split
        self.documents, self.sentences, self.tokens = split.documents, split.sentences, split.tokens  # type: ignore[attr-defined]
        self.document_offsets = split.document_offsets  # type: ignore[attr-defined]
        self.token_offsets = split.token_offsets + 2**33 + 5  # type: ignore[attr-defined]

    def map(self, array: str) -> tuple[np.ndarray, np.ndarray]:
        """As the split's."""
        return self._split.map(array)  # type: ignore[attr-defined, no-any-return]


def test_more_tokens_than_an_int32_holds(tmp_path: Path) -> None:
    split = lengths_store(tmp_path / "store", drawn_documents(30), shards=2).split("train")
    near = decode_rows(np.concatenate(list(make_rows(split, Walk(64), 1, 0))))
    far = decode_rows(np.concatenate(list(make_rows(Shifted(split), Walk(64), 1, 0))))
    for one, other in zip(near[:4], far[:4], strict=True):
        assert np.array_equal(one + 2**33 + 5, other)
    assert np.array_equal(near.label, far.label)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((7,), "sequence length 7"), ((128, "nsp"), "objective 'nsp'"), ((128, "mlm", 1.5), "short_share 1.5")],
)
def test_impossible_settings(arguments: tuple, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        Walk(*arguments)


def test_spans_is_five_columns() -> None:
    assert Spans._fields == ("a0", "a1", "b0", "b1", "label")
