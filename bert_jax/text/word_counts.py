"""How often each word stands in a text, in bounded memory, the same however the text is cut into pieces of work."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bert_jax.text.normalise import WordRules, WordSplitter, whitespace_tokens

VocabularyKind = Literal["wordpiece", "sentencepiece", "words"]

MAX_TYPES = 2_000_000
"""When a table holds more different words than this, the rarest go until at most half are left."""
HELD_OUT_SHARE = 64
"""One document in this many, by a hash of its text, is not learned from but measured on."""

_BUFFER_CHARACTERS = 1 << 20
_LONG_TOKEN = 32  # longer ones are clauses of Chinese, or addresses: hardly any comes twice


@dataclass
class WordCounts:
    """Word → count, of the learned and of the held-out documents.

    `kind` wordpiece counts words as the WordPiece tokenizer normalises and splits them, the others count what stands
    between blanks. `cased` as in the tokenizer.
    """

    kind: VocabularyKind
    cased: bool
    words: dict[str, int] = field(default_factory=dict)
    held_out: dict[str, int] = field(default_factory=dict)
    documents: int = 0
    """Documents counted, held-out ones included."""
    bytes: int = 0
    """Their size as UTF-8."""

    def add(self, other: WordCounts) -> None:
        """Add the counts of another part; of several parts, add them in a fixed order."""
        assert (self.kind, self.cased) == (other.kind, other.cased)
        for mine, theirs in ((self.words, other.words), (self.held_out, other.held_out)):
            for word, count in theirs.items():
                mine[word] = mine.get(word, 0) + count
            drop_rare(mine, MAX_TYPES)
        self.documents += other.documents
        self.bytes += other.bytes


def count_words(
    texts: Iterable[str],
    kind: VocabularyKind,
    cased: bool,
    share: float = 1.0,
    most_bytes: float = float("inf"),
    hold_out: bool = True,
    rules: WordRules | None = None,
) -> WordCounts:
    """Counts over documents; only `share` of them by a hash of their text, and only until `most_bytes` are counted.

    `hold_out` keeps one document in 64 apart (never for `kind` words, where every count matters). `rules`: how kind
    wordpiece splits (default: what follows from `cased`, with Chinese characters as words).
    """
    result = WordCounts(kind, cased)
    rules = rules or WordRules(not cased, not cased)
    learned, held = _Counter(kind, rules), _Counter(kind, rules)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        if share < 1.0 and zlib.crc32(data, 1) >= share * 2**32:
            continue
        apart = hold_out and kind != "words" and zlib.crc32(data) % HELD_OUT_SHARE == 0
        (held if apart else learned).add(text)
        result.documents += 1
        result.bytes += len(data)
        if result.bytes >= most_bytes:
            break
    result.words, result.held_out = learned.counts(), held.counts()
    return result


def drop_rare(counts: dict[str, int], most: int) -> None:
    """When `counts` has over `most` entries, remove the rarest, whole count by count, until at most half are left."""
    if len(counts) <= most:
        return
    of_count = Counter(counts.values())
    left, least = len(counts), 0
    for count in sorted(of_count):
        if left <= most // 2:
            break
        least = count
        left -= of_count[count]
    for word in [word for word, count in counts.items() if count <= least]:
        del counts[word]


class _Counter:
    """Counts tokens as they come and splits each different one only once, at the end."""

    def __init__(self, kind: VocabularyKind, rules: WordRules):
        self._splitter = WordSplitter(*rules) if kind == "wordpiece" else None
        self._lower = rules.lower
        self._tokens: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._buffer: list[str] = []
        self._buffered = 0

    def add(self, text: str) -> None:
        self._buffer.append(text)
        self._buffered += len(text)
        if self._buffered >= _BUFFER_CHARACTERS:
            self._count()

    def _count(self) -> None:
        text = "\n".join(self._buffer)
        self._buffer, self._buffered = [], 0
        if self._splitter is None:
            self._tokens.update(text.split())
        else:
            tokens = whitespace_tokens(text)
            if 8 * len(tokens) < len(text):  # few blanks: Chinese, whose clauses are split at once
                self._words.update(self._splitter(text))
            else:
                self._tokens.update(tokens)
        if len(self._tokens) > MAX_TYPES:
            self._split_tokens()
        drop_rare(self._words, MAX_TYPES)

    def _split_tokens(self) -> None:
        """Move the tokens counted so far into the counts of words."""
        splitter, words = self._splitter, self._words
        tokens, self._tokens = self._tokens, Counter()
        if splitter is None:
            words.update(tokens)
            return
        for token, count in tokens.items():
            # The two most frequent shapes, told apart without the splitter: `word` and `word,`.
            if token.isascii() and token[:-1].isalnum() and "!" <= token[-1] <= "~":
                token = token.lower() if self._lower else token
                if token.isalnum():
                    words[token] += count
                else:
                    words[token[:-1]] += count
                    words[token[-1]] += count
            else:
                for word in splitter(token):
                    words[word] += count

    def counts(self) -> dict[str, int]:
        self._count()
        self._split_tokens()
        drop_rare(self._words, MAX_TYPES)
        return dict(self._words)


def most_common(counts: Mapping[str, int], most: int | None = None) -> list[tuple[str, int]]:
    """(word, count), by falling count, then by text."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ordered[:most]
