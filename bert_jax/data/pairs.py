"""The published walk over documents: which tokens make the segments A and B of every example.

google-research/bert, `create_pretraining_data.py`, `create_instances_from_document`, as rules:

1. A document draws its target length once: length - 3, or with probability `short_share` uniform from 2 to length - 3.
2. Sentences are taken into a chunk until it holds the target or the document ends.
3. A is the first n sentences of the chunk: its only one, or n uniform from 1 to all but one.
4. B is *random* when the chunk has one sentence, else by a fair coin: from another document (ten tries to find
   another), a random sentence of it on, until it holds target - |A| tokens or that document ends. The chunk's sentences
   after A are put back: the next chunk begins with them. Otherwise B is the rest of the chunk.
5. While A and B together exceed length - 3, the longer one (B when equal) loses a token, front or back by a fair coin.

How it is made fast without changing its distribution: the coins of a chunk are keyed by the sentence it begins with,
and a walk begins at most one chunk with each sentence. So all documents of a block are walked in lock-step, and what
is left of a few long ones by computing "where does the next chunk begin" for all their sentences at once.

Two further objectives walk the same way. `mlm`: A is the whole chunk, there is no B, and sentences longer than an
example are cut into several, so that no text is lost. `mlm+sop` (ALBERT, arXiv 1909.11942, section 3.1): B is always
the rest of the chunk, and a coin swaps the two; a chunk of one sentence is cut in two at a random token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bert_jax.data.permutation import Bits, scaled, unit
from bert_jax.data.spans import Ints, Spans, encode_rows, truncate
from bert_jax.errors import BertJaxError

OBJECTIVES = ("mlm+nsp", "mlm", "mlm+sop")
# Part of every plan's digest: raise it when the rows made from the same input change.
VERSION = 1

_BLOCK_SENTENCES = 1 << 18
_SLICE = 1 << 17
_LOCK_STEP_PRICE = 500  # of one lock-step, whatever its width, in sentences looked at (measured)
_OTHER_DOCUMENT_TRIES = 10


class Documents(Protocol):
    """What is needed of a split of a token store (see `store.Split`)."""

    documents: int
    sentences: int
    tokens: int
    document_offsets: np.ndarray
    token_offsets: np.ndarray

    def map(self, array: str) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Walk:
    """Settings of a walk. `length` counts the special tokens. Errors: `BertJaxError` for values that cannot be."""

    length: int
    objective: str = "mlm+nsp"
    short_share: float = 0.1

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise BertJaxError(f"objective {self.objective!r} is unknown: expected one of {', '.join(OBJECTIVES)}")
        if not 8 <= self.length < 1 << 20:
            raise BertJaxError(f"sequence length {self.length} is not possible: expected at least 8, below 1,048,576")
        if not 0 <= self.short_share <= 1:
            raise BertJaxError(f"short_share {self.short_share} is not a share: expected 0 to 1")

    @property
    def room(self) -> int:
        """Tokens beside the special ones: [CLS] A [SEP] B [SEP], or [CLS] A [SEP]."""
        return self.length - (2 if self.objective == "mlm" else 3)


def make_rows(documents: Documents, walk: Walk, seed: int, variant: int) -> Iterator[NDArray[np.int32]]:
    """All examples of a split in document order, as int32 rows (R, 5), in pieces of bounded size.

    A pure function of its arguments. Different variants are independent draws.
    """
    others = _OtherDocuments(documents)
    for block in _blocks(documents, walk, seed, variant):
        bits = Bits(seed, variant, block.index, "rows")
        for starts in _walk(block, walk):
            yield encode_rows(_examples(block, walk, starts, bits, others))


def count_rows(documents: Documents, walk: Walk, seed: int, variant: int) -> int:
    """How many rows `make_rows` makes, in about a third of its time."""
    count = 0
    for block in _blocks(documents, walk, seed, variant):
        for starts in _walk(block, walk):
            count += len(starts)
            if walk.objective == "mlm+sop":
                count -= int(np.count_nonzero(_is_one_token(block, _chunks(block, walk, starts))))
    return count


# --- blocks of documents ----------------------------------------------------------------------------------------------


@dataclass
class _Block:
    """Neighbouring documents. Sentences are numbered from 0 within the block, documents and tokens split-wide."""

    index: int
    first_document: int
    begins: Ints  # (sentences,) first token of each sentence
    ends: Ints  # (sentences,) token after its last
    firsts: Ints  # (documents,) first sentence of each document
    lasts: Ints  # (documents,) its last
    targets: Ints  # (documents,)
    words: NDArray[np.uint64]  # (sentences,) the coins of a chunk that begins here


class _Piece(NamedTuple):
    """Documents of one shard: (sentences,) split-wide token after each, (documents,) sentences up to each one's end."""

    ends: Ints
    stops: Ints


def _blocks(documents: Documents, walk: Walk, seed: int, variant: int) -> Iterator[_Block]:
    """All documents in blocks of about `_BLOCK_SENTENCES` sentences, or of one document that has more."""
    pieces: list[_Piece] = []
    index, first_document, first_token = 0, 0, int(documents.token_offsets[0])
    for piece, is_full in _pieces(documents):
        pieces.append(piece)
        if is_full:
            yield _make_block(index, first_document, first_token, pieces, walk, seed, variant)
            index, first_document = index + 1, first_document + sum(len(one.stops) for one in pieces)
            first_token, pieces = int(piece.ends[-1]), []


def _pieces(documents: Documents) -> Iterator[tuple[_Piece, bool]]:
    """The documents of each shard, cut where a block is full (then True, as with the last piece of all)."""
    sentence_memory, sentence_bases = documents.map("sentence_ends")
    document_memory, document_bases = documents.map("document_ends")
    room, done = _BLOCK_SENTENCES, 0
    for shard, base in enumerate(document_bases.tolist()):
        count = int(documents.document_offsets[shard + 1] - documents.document_offsets[shard])
        document_ends = document_memory[base : base + count]  # in sentences of the shard
        first = begin = 0
        while first < count:
            last = int(np.searchsorted(document_ends, begin + room, side="right"))
            # What does not fit begins the next block. (The last piece of a block may so be a little over it.)
            last = min(max(last, first + 1), count)
            stops = np.asarray(document_ends[first:last], np.int64) - begin
            low = int(sentence_bases[shard]) + begin
            ends = sentence_memory[low : low + int(stops[-1])] + documents.token_offsets[shard]
            begin, room, done = begin + int(stops[-1]), room - int(stops[-1]), done + last - first
            first = last
            is_full = room <= 0 or first < count or done == documents.documents
            room = _BLOCK_SENTENCES if is_full else room
            yield _Piece(ends, stops), is_full


def _make_block(
    index: int, document: int, token: int, pieces: list[_Piece], walk: Walk, seed: int, variant: int
) -> _Block:
    ends = np.concatenate([piece.ends for piece in pieces])
    before = np.cumsum([0, *(len(piece.ends) for piece in pieces)])
    stops = np.concatenate([piece.stops + at for piece, at in zip(pieces, before, strict=False)])
    begins = np.concatenate([[token], ends[:-1]]).astype(np.int64)
    if (ends <= begins).any():
        raise BertJaxError("the store holds an empty sentence or unsorted sentence ends: verify it, or prepare it anew")
    if walk.objective == "mlm" and (ends - begins).max() > walk.room:
        counts = -(-(ends - begins) // walk.room)
        stops = np.cumsum(counts)[stops - 1]
        inside = np.arange(int(stops[-1])) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = np.repeat(begins, counts) + inside * walk.room
        ends = np.append(begins[1:], ends[-1])
    firsts = np.concatenate([[0], stops[:-1]]).astype(np.int64)
    bits = Bits(seed, variant, index, "walk")
    short = unit(bits.words(len(stops))) < walk.short_share
    targets = np.where(short, 2 + scaled(bits.words(len(stops)), walk.room - 1), walk.room)
    return _Block(index, document, begins, ends, firsts, stops - 1, targets, bits.words(len(ends)))


# --- the walk ---------------------------------------------------------------------------------------------------------


class _Chunks(NamedTuple):
    starts: Ints  # first sentence
    stops: Ints  # last sentence
    in_a: Ints  # how many sentences A takes
    is_random: NDArray[np.bool_]
    next_starts: Ints  # where the next chunk of the document begins


def _chunks_from(block: _Block, walk: Walk, starts: Ints, lasts: Ints, targets: Ints) -> _Chunks:
    """The chunks that begin with each of the sentences `starts`, in documents that end with `lasts`."""
    stops = np.minimum(np.searchsorted(block.ends, block.begins[starts] + targets), lasts)
    if walk.objective == "mlm":
        return _Chunks(starts, stops, stops - starts + 1, np.zeros(len(starts), bool), stops + 1)
    after_first = stops - starts
    words = block.words[starts]
    # Uniform from 1 to one less than the chunk's sentences, or 1: 32 of the word's bits, scaled.
    in_a = 1 + ((words >> np.uint64(32)) * after_first.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
    if walk.objective == "mlm+sop":
        return _Chunks(starts, stops, in_a, np.zeros(len(starts), bool), stops + 1)
    is_random = (after_first == 0) | (words & np.uint64(1)).astype(bool)
    return _Chunks(starts, stops, in_a, is_random, np.where(is_random, starts + in_a, stops + 1))


def _chunks(block: _Block, walk: Walk, starts: Ints) -> _Chunks:
    document = _document_of(block, starts)
    return _chunks_from(block, walk, starts, block.lasts[document], block.targets[document])


def _document_of(block: _Block, sentences: Ints) -> Ints:
    return np.searchsorted(block.firsts, sentences, side="right") - 1


def _walk(block: _Block, walk: Walk) -> Iterator[Ints]:
    """The sentences of a block that begin a chunk, ascending, in pieces."""
    begins_chunk = np.zeros(len(block.ends), bool)
    starts, lasts, targets = block.firsts, block.lasts, block.targets
    mean_length = (block.ends[-1] - block.begins[0]) / len(block.ends)
    worthwhile = _LOCK_STEP_PRICE / max(1.0, 0.75 * walk.room / mean_length)
    while len(starts) >= max(2, worthwhile):
        begins_chunk[starts] = True
        following = _chunks_from(block, walk, starts, lasts, targets).next_starts
        going_on = np.flatnonzero(following <= lasts)
        starts, lasts, targets = following[going_on], lasts[going_on], targets[going_on]
    if len(starts):
        begins_chunk[_chase(block, walk, starts, lasts, targets)] = True
    chosen = np.flatnonzero(begins_chunk)
    for first in range(0, len(chosen), _SLICE):
        yield chosen[first : first + _SLICE]


def _chase(block: _Block, walk: Walk, starts: Ints, lasts: Ints, targets: Ints) -> Ints:
    """Walk the rest of some documents: the next start for all their sentences at once, then follow them."""
    visited = []
    sizes = lasts + 1 - starts
    ends = np.cumsum(sizes)
    place = 0  # in the list of all these documents' remaining sentences, from `first` on
    for first in range(0, int(ends[-1]), _SLICE):
        stop = min(first + _SLICE, int(ends[-1]))
        here = np.minimum(ends, stop) - np.clip(ends - sizes, first, stop)  # sentences of each document in this slice
        sentences = np.arange(first, stop) + np.repeat(starts - (ends - sizes), np.maximum(here, 0))
        each = np.repeat(np.arange(len(ends)), np.maximum(here, 0))
        following = _chunks_from(block, walk, sentences, lasts[each], targets[each]).next_starts
        steps = (following - sentences).tolist()
        found = []
        while place < len(steps):
            found.append(place)
            place += steps[place]  # past a document's last sentence stands the first of the next
        place -= len(steps)
        visited.append(sentences[found])
    return np.concatenate(visited)


# --- examples ---------------------------------------------------------------------------------------------------------


def _examples(block: _Block, walk: Walk, starts: Ints, bits: Bits, others: _OtherDocuments) -> Spans:
    """A and B, truncated, of the chunks that begin with `starts`."""
    chunks = _chunks(block, walk, starts)
    if walk.objective == "mlm+sop":
        keep = ~_is_one_token(block, chunks)
        chunks = _Chunks(*(np.asarray(field)[keep] for field in chunks))  # type: ignore[arg-type]
    a0, a1 = block.begins[chunks.starts], block.ends[chunks.starts + chunks.in_a - 1]
    b1 = block.ends[chunks.stops]
    label = chunks.is_random.astype(np.int32)
    if walk.objective == "mlm":
        spans = Spans(a0, a1, np.zeros_like(a0), np.zeros_like(a0), label)
        return truncate(spans, walk.room, bits)
    if walk.objective == "mlm+sop":
        alone = np.flatnonzero(chunks.stops == chunks.starts)
        a1[alone] = a0[alone] + 1 + bits.below(b1[alone] - a0[alone] - 1)
        swapped = (bits.words(len(a0)) & np.uint64(1)).astype(bool)
        first = np.where(swapped, a1, a0), np.where(swapped, b1, a1)
        second = np.where(swapped, a0, a1), np.where(swapped, a1, b1)
        return truncate(Spans(*first, *second, swapped.astype(np.int32)), walk.room, bits)
    b0 = a1.copy()
    drawn = np.flatnonzero(chunks.is_random)
    own = _document_of(block, chunks.starts[drawn])
    wanted = np.maximum(block.targets[own] - (a1 - a0)[drawn], 1)
    b0[drawn], b1[drawn] = others.draw(own + block.first_document, wanted, bits)
    return truncate(Spans(a0, a1, b0, b1, label), walk.room, bits)


def _is_one_token(block: _Block, chunks: _Chunks) -> NDArray[np.bool_]:
    """Chunks too short to be cut in two."""
    return block.ends[chunks.stops] - block.begins[chunks.starts] < 2


class _OtherDocuments:
    """Where random second segments come from: any document of the split."""

    def __init__(self, documents: Documents):
        self._count = documents.documents
        self._document_offsets, self._token_offsets = documents.document_offsets, documents.token_offsets
        self._sentence_ends, self._sentence_bases = documents.map("sentence_ends")
        self._document_ends, self._document_bases = documents.map("document_ends")

    def draw(self, own: Ints, wanted: Ints, bits: Bits) -> tuple[Ints, Ints]:
        """A segment [b0, b1) of at least `wanted` tokens, or to a document's end, not from document `own` if it can be
        helped; all split-wide, int64 (R,)."""
        document = np.empty_like(own)
        again = np.arange(len(own))
        for _ in range(_OTHER_DOCUMENT_TRIES):
            document[again] = scaled(bits.words(len(again)), self._count)
            again = again[document[again] == own[again]]
        shard = np.searchsorted(self._document_offsets[1:], document, side="right")
        local = document - self._document_offsets[shard]
        address = self._document_bases[shard] + local
        stop = self._document_ends[address]
        first = np.where(local > 0, self._document_ends[np.maximum(address - 1, 0)], 0)
        sentence = first + bits.below(stop - first)
        address = self._sentence_bases[shard] + sentence
        begin = np.where(sentence > 0, self._sentence_ends[np.maximum(address - 1, 0)], 0)
        end = self._sentence_ends[self._first_reaching(begin + wanted, address, address + stop - 1 - sentence, wanted)]
        base = self._token_offsets[shard]
        return begin + base, end + base

    def _first_reaching(self, token: Ints, low: Ints, last: Ints, wanted: Ints) -> Ints:
        """The first sentence from `low` on that ends at `token` or later, else `last`: a binary search, all at once."""
        # A sentence has at least one token, so `wanted` sentences are always enough.
        high = np.minimum(last, low + wanted - 1)
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            reached = self._sentence_ends[middle] >= token
            high = np.where(reached, middle, high)
            low = np.minimum(np.where(reached, low, middle + 1), high)
        return high
