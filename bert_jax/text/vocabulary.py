"""Make a vocabulary from text: WordPiece, SentencePiece or whole words; the same bytes out for the same text in.

WordPiece: candidates are the merges that SentencePiece's byte-pair trainer finds on the counts of normalised words, in
its order, `▁x` → `x` and `x` → `##x`; 15 % more than fit are taken, all words are cut with them by longest match
first, and those used least are dropped. Measured on held-out Wikipedia this gives fewer pieces per word than the
official vocabulary at equal size.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.errors import BertJaxError
from bert_jax.files import make_directory, require_absent
from bert_jax.text.interface import SPECIAL_PIECES, Tokenizer
from bert_jax.text.sentence_piece import Preprocessor, SentencePieceTokenizer
from bert_jax.text.word_counts import VocabularyKind, WordCounts, count_words, most_common
from bert_jax.text.wordpiece import CONTINUES, WordPieces
from bert_jax.text.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.text.words import WordsTokenizer

SAMPLE_BYTES = 2_000_000_000

_UNUSED_BEFORE, _UNUSED = 99, 994  # in the official uncased vocabulary, around [UNK] [CLS] [SEP] [MASK]
_SURPLUS = 1.15
_MAX_WORDS = 100_000  # the most frequent words that merges are learned from
_MAX_PIECE = 32  # characters
_BLANK = "▁"
_ASCII = [chr(code) for code in range(33, 127)]


def make_vocabulary(
    texts: Iterable[str] | WordCounts,
    size: int = 30522,
    kind: VocabularyKind = "wordpiece",
    cased: bool = False,
    out: str | os.PathLike[str] = "tokenizer",
    sample_bytes: float = SAMPLE_BYTES,
    min_count: int | None = None,
    unused: int | None = None,
    compare: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Make a tokenizer directory `out` with a vocabulary of exactly `size` entries; return what there is to say.

    `texts`: documents, of which the first `sample_bytes` are counted, or counts already made (`count_words`).
    `min_count`: entries of kind `words` stand at least this often, and `size` is then the most there may be.
    `unused`: how many `[unusedN]` rows (default: 994 from 16,384 entries on, 99 from 2,048 on, else none; with 99 or
    more, `[UNK] [CLS] [SEP] [MASK]` are 100 to 103 as in the official vocabularies, else 1 to 4).
    `compare`: other WordPiece vocabularies by name, to be measured on the same held-out words.

    The summary holds `kind`, `size`, `cased`, `documents`, `bytes`, `words`, `types`, and of the held-out documents
    `held_out_words`, `pieces_per_word`, `unknown_rate` (None when nothing was held out), and `compared`.
    Errors: `BertJaxError` when the text is empty or too small for `size` (says how many entries are possible), or `out`
    is not empty.
    """
    if kind not in ("wordpiece", "sentencepiece", "words"):
        raise BertJaxError(f"vocabulary kind {kind!r}: expected wordpiece, sentencepiece or words")
    require_absent(out)
    counts = texts if isinstance(texts, WordCounts) else count_words(texts, kind, cased, most_bytes=sample_bytes)
    if (counts.kind, counts.cased) != (kind, cased):
        raise BertJaxError(f"the words were counted for {counts.kind}, cased {counts.cased}: count them anew")
    if not counts.words:
        raise BertJaxError("the text holds no words to make a vocabulary from: give a source with more text")
    summary: dict[str, Any] = {
        "kind": kind,
        "size": size,
        "cased": cased,
        "documents": counts.documents,
        "bytes": counts.bytes,
        "words": sum(counts.words.values()) + sum(counts.held_out.values()),
        "types": len(counts.words),
    }
    tokenizer: Tokenizer
    if kind == "wordpiece":
        entries = wordpiece_entries(counts.words, size, cased, unused)
        tokenizer = WordPieceTokenizer(entries, cased)
        summary |= held_out_measures(entries, counts.held_out)
        summary["compared"] = {
            name: held_out_measures(other, counts.held_out) for name, other in (compare or {}).items()
        }
    elif kind == "sentencepiece":
        tokenizer = SentencePieceTokenizer(sentencepiece_model(counts.words, size, cased), cased, keep_accents=cased)
        summary |= _tokenizer_measures(tokenizer, counts.held_out)
    else:
        entries = whole_words(counts.words, size, min_count or 1)
        summary["size"] = len(entries)
        tokenizer = WordsTokenizer(entries)
    make_directory(out, tokenizer.save)
    return summary


def reserved_entries(size: int, unused: int | None = None) -> list[str]:
    """`[PAD]`, the other specials and the `[unusedN]` rows, in the places of the official vocabularies."""
    if unused is None:
        unused = _UNUSED if size >= 16384 else _UNUSED_BEFORE if size >= 2048 else 0
    rows = [f"[unused{number}]" for number in range(unused)]
    before = _UNUSED_BEFORE if unused >= _UNUSED_BEFORE else 0
    pad, *others = SPECIAL_PIECES.values()
    return [pad, *rows[:before], *others, *rows[before:]]


def wordpiece_entries(words: Mapping[str, int], size: int, cased: bool, unused: int | None = None) -> list[str]:
    """Exactly `size` entries: reserved ones, single characters, then pieces by how often longest match uses them.

    Errors: `BertJaxError` when the words give fewer, or `size` leaves no room.
    """
    reserved = reserved_entries(size, unused)
    room = size - len(reserved)
    alphabet = _alphabet(words, cased, size, most=max(room // 2, min(room, 64)))
    if len(alphabet) >= room:
        raise BertJaxError(
            f"a vocabulary of {size:,} has no room for {len(reserved):,} reserved entries and the text's single "
            "characters: ask for a larger one"
        )
    taken = {*reserved, *alphabet}
    ordered = most_common(words)
    for most in (_MAX_WORDS, len(ordered)):
        learned = _spelled(ordered[:most], alphabet)
        pieces = [piece for piece in _merges(learned, int(_SURPLUS * room)) if piece not in taken]
        if len(alphabet) + len(pieces) >= room or most >= len(ordered):
            break
    if len(alphabet) + len(pieces) < room:
        possible = len(reserved) + len(alphabet) + len(pieces)
        raise BertJaxError(
            f"the text is too small for a vocabulary of {size:,}: at most {possible:,} entries are possible; "
            "ask for fewer (--size, or data.vocab_size in pretrain), or give more text"
        )
    pieces = _most_used(alphabet, pieces[: int(_SURPLUS * room)], learned)[: room - len(alphabet)]
    return [*reserved, *alphabet, *pieces]


def _spelled(words: Iterable[tuple[str, int]], alphabet: Sequence[str]) -> list[tuple[str, int]]:
    """The words that merges can be learned from: not too long, and written in the alphabet."""
    first = {entry for entry in alphabet if len(entry) == 1} - {_BLANK}
    later = {entry[-1] for entry in alphabet if len(entry) > 1} - {_BLANK}
    return [
        (word, count)
        for word, count in words
        if len(word) <= 2 * _MAX_PIECE and word[0] in first and later.issuperset(word[1:])
    ]


def _alphabet(words: Mapping[str, int], cased: bool, size: int, most: int) -> list[str]:
    """Single characters, first in a word (`x`) and later in it (`##x`), `most` of them.

    The most frequent ones, down to those that are one in ten times `size` characters, and from 2,048 entries on all of
    ASCII. Words with a rarer character become [UNK].
    """
    forms: Counter[str] = Counter()
    later: Counter[str] = Counter()
    for word, count in words.items():
        forms[word[0]] += count
        for char in word[1:]:
            later[char] += count
    forms.update({CONTINUES + char: count for char, count in later.items()})
    chosen: set[str] = set()
    if size >= 2048:
        letters = [char for char in _ASCII if cased or not char.isupper()]
        chosen.update(letters, (CONTINUES + char for char in letters if char.isalnum()))
    total, covered = sum(forms.values()), 0
    for form, count in most_common(forms):
        if (total - covered) * 10 * size <= total or len(chosen) >= most:
            break
        chosen.add(form)
        covered += count
    return sorted(chosen, key=lambda form: (form.startswith(CONTINUES) and len(form) > 2, form))


def _merges(words: Sequence[tuple[str, int]], most: int) -> list[str]:
    """Entries in the order in which byte-pair merging finds them, `most` of them and more where there are as many."""
    import sentencepiece

    if not words:
        return []
    characters = len({char for word, _ in words for char in word})
    proto = _train(
        words,
        model_type="bpe",
        vocab_size=most + characters + 8,
        hard_vocab_limit=False,  # fewer where the words give no more
        normalization_rule_name="identity",
        max_sentencepiece_length=_MAX_PIECE,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    pieces = (model.id_to_piece(number) for number in range(3, model.get_piece_size()))
    entries = (piece[1:] if piece.startswith(_BLANK) else CONTINUES + piece for piece in pieces)
    return [entry for entry in entries if entry and entry != CONTINUES]


def _train(words: Iterable[tuple[str, int]], **options: Any) -> bytes:
    """A SentencePiece model of counted words, as its file's bytes. One thread: then nothing hangs on the machine."""
    import sentencepiece

    model = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="bert_jax_vocabulary_") as folder:
        table = os.path.join(folder, "words.tsv")
        with open(table, "w", encoding="utf-8") as file:
            file.writelines(f"{word}\t{count}\n" for word, count in words)
        sentencepiece.SentencePieceTrainer.train(
            input=table,
            input_format="tsv",
            model_writer=model,
            character_coverage=options.pop("character_coverage", 1.0),
            split_by_unicode_script=False,
            split_by_number=False,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
            **options,
        )
    return _without_paths(model.getvalue())


def _without_paths(model: bytes) -> bytes:
    """The model less the name of the temporary file it was made from, which it would carry along."""
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    parsed = proto.ModelProto.FromString(model)
    parsed.trainer_spec.ClearField("input")
    return bytes(parsed.SerializeToString(deterministic=True))


def _most_used(alphabet: Sequence[str], pieces: Sequence[str], words: Iterable[tuple[str, int]]) -> list[str]:
    """`pieces` by how often longest match first uses them on counted words, ties in their order."""
    matcher = WordPieces({entry: number for number, entry in enumerate([*alphabet, *pieces])}, -1)
    used = [0] * (len(alphabet) + len(pieces))
    for word, count in words:
        for number, _, _ in matcher.matches(word):
            if number >= 0:
                used[number] += count
    order = sorted(range(len(pieces)), key=lambda index: (-used[len(alphabet) + index], index))
    return [pieces[index] for index in order]


def held_out_measures(entries: Sequence[str], held_out: Mapping[str, int]) -> dict[str, Any]:
    """`pieces_per_word` and `unknown_rate` of a WordPiece vocabulary on counted words; None where there are none."""
    words = sum(held_out.values())
    if not words:
        return {"held_out_words": 0, "pieces_per_word": None, "unknown_rate": None}
    matcher = WordPieces({entry: number for number, entry in enumerate(entries)}, -1)
    pieces = unknown = 0
    for word, count in held_out.items():
        found = matcher.matches(word)
        pieces += count * len(found)
        unknown += count * (found[0][0] < 0)
    return {"held_out_words": words, "pieces_per_word": pieces / words, "unknown_rate": unknown / words}


def sentencepiece_model(words: Mapping[str, int], size: int, cased: bool) -> bytes:
    """A unigram model with ALBERT's ids: <pad> 0, <unk> 1, [CLS] 2, [SEP] 3, [MASK] 4, for text prepared as ALBERT's.

    Errors: `BertJaxError` when the text is too small for `size`, or `size` for its characters.
    """
    prepare = Preprocessor(not cased, keep_accents=cased)
    prepared: Counter[str] = Counter()
    for word, count in words.items():
        prepared[prepare(word)] += count
    learned = [(word, count) for word, count in most_common(prepared, _MAX_WORDS) if 0 < len(word) <= 1000]
    try:
        return _train(
            learned,
            model_type="unigram",
            vocab_size=size,
            character_coverage=0.9995,
            normalization_rule_name="nmt_nfkc",
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece="<pad>",
            unk_piece="<unk>",
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        )
    except (RuntimeError, OSError) as error:
        possible = re.search(r"<= (\d+)", str(error))
        if possible:
            raise BertJaxError(
                f"the text is too small for a vocabulary of {size:,}: at most {int(possible[1]):,} entries are "
                "possible; ask for fewer (--size, or data.vocab_size in pretrain), or give more text"
            ) from error
        reason = str(error).strip().splitlines()[-1]
        raise BertJaxError(f"SentencePiece cannot make a vocabulary of {size:,} from this text: {reason}") from error


def _tokenizer_measures(tokenizer: Tokenizer, held_out: Mapping[str, int]) -> dict[str, Any]:
    """As `held_out_measures`, of any tokenizer."""
    words = sum(held_out.values())
    if not words:
        return {"held_out_words": 0, "pieces_per_word": None, "unknown_rate": None}
    ids, lengths = tokenizer.bulk_ids(held_out)
    counts = np.array(list(held_out.values()))
    unknown = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[ids == tokenizer.unk_id], minlength=len(lengths))
    return {
        "held_out_words": words,
        "pieces_per_word": float(counts @ lengths) / words,
        "unknown_rate": float(counts @ (unknown > 0)) / words,
    }


def whole_words(words: Mapping[str, int], size: int, min_count: int) -> list[str]:
    """The five specials, then words that stand at least `min_count` times, by falling count, then by text."""
    specials = list(SPECIAL_PIECES.values())
    kept = [word for word, count in most_common(words) if count >= min_count and word not in specials]
    if not kept:
        raise BertJaxError(f"no word stands {min_count} times or more: lower the minimum count")
    return [*specials, *kept][:size]
