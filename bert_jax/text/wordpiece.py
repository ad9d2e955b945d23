"""WordPiece: longest match first, equal to google-research/bert's `tokenization.py` on every string, and memoised.

The pieces of a whitespace-separated token depend on that token alone (`normalise.py`), so a dictionary from token to
ids, kept as little-endian bytes, turns running text into a split, look-ups and one join.
"""

from __future__ import annotations

from collections.abc import Callable

from bert_jax.text.normalise import WordSplitter, whitespace_tokens

MAX_WORD_CHARACTERS = 200  # longer words are unknown
CONTINUES = "##"

_BEGINNING = 4  # characters by which the lengths worth trying are told
_SHORT_LENGTHS = tuple(range(_BEGINNING - 1, 0, -1))

_MEMO_ENTRIES = 1 << 18  # per generation, two are kept: at most some 50 MB each
_MEMO_KEY_CHARACTERS = 64  # longer tokens (whole clauses of Chinese, addresses) are rare and not remembered


class Memo(dict[str, bytes]):
    """A function of short strings, remembered in bounded memory: when the newer half is full, the older half goes."""

    def __init__(self, function: Callable[[str], bytes], entries: int = _MEMO_ENTRIES):
        super().__init__()
        self._function = function
        self._entries = entries
        self._older: dict[str, bytes] = {}

    def __missing__(self, key: str) -> bytes:
        value = self._older.get(key)
        if value is None:
            value = self._function(key)
        if len(key) <= _MEMO_KEY_CHARACTERS:
            if len(self) >= self._entries:
                self._older = self.copy()
                self.clear()
            self[key] = value
        return value


class Entries:
    """Vocabulary entries for one place in a word, and the longest of them that begins there.

    `_lengths` gives, for each beginning of `_BEGINNING` characters, the lengths of the entries with it, longest first:
    no other length can match, so none is looked up. The result is that of trying every length.
    """

    def __init__(self, numbers: dict[str, int]):
        self._numbers = numbers
        lengths: dict[str, set[int]] = {}
        for entry in numbers:
            if len(entry) >= _BEGINNING:
                lengths.setdefault(entry[:_BEGINNING], set()).add(len(entry))
        self._lengths = {
            beginning: tuple(sorted(found.union(_SHORT_LENGTHS), reverse=True)) for beginning, found in lengths.items()
        }

    def longest(self, word: str, start: int) -> tuple[int, int] | None:
        """(id, past last character) of the longest entry in `word` at `start`, or None."""
        numbers = self._numbers
        for length in self._lengths.get(word[start : start + _BEGINNING], _SHORT_LENGTHS):
            part = word[start : start + length]  # shorter than `length` at the end of the word, and right all the same
            if part in numbers:
                return numbers[part], start + len(part)
        return None


class WordPieces:
    """Words → ids over one vocabulary. `vocabulary`: entry → id; `unknown`: the id of [UNK]."""

    def __init__(self, vocabulary: dict[str, int], unknown: int):
        self.unknown = unknown
        self.vocabulary = vocabulary
        self._first = Entries(vocabulary)
        self._further = Entries(
            {entry[len(CONTINUES) :]: number for entry, number in vocabulary.items() if entry.startswith(CONTINUES)}
        )

    def matches(self, word: str) -> list[tuple[int, int, int]]:
        """(id, first, past last character) of each piece of `word`; an unknown word is one piece."""
        unknown = [(self.unknown, 0, len(word))]
        if len(word) > MAX_WORD_CHARACTERS:
            return unknown
        found: list[tuple[int, int, int]] = []
        longest, start = self._first.longest, 0
        while start < len(word):
            match = longest(word, start)
            if match is None:
                return unknown
            found.append((match[0], start, match[1]))
            longest, start = self._further.longest, match[1]
        return found


class TextPieces:
    """Text → ids: the words of `splitter` cut by `matcher`."""

    def __init__(self, splitter: WordSplitter, matcher: WordPieces):
        self.splitter = splitter
        self.matcher = matcher
        # One object per id, side by side: most words are one piece, and running text then stays in the cache.
        self._packed = {
            number: number.to_bytes(4, "little") for number in sorted({matcher.unknown, *matcher.vocabulary.values()})
        }
        self._whole = {
            word: self._packed[number]
            for word, number in matcher.vocabulary.items()
            if len(word) <= MAX_WORD_CHARACTERS
        }
        self._of_words = Memo(self._of_word).__getitem__
        self._of_tokens = Memo(self._of_token).__getitem__

    def _of_word(self, word: str) -> bytes:
        return b"".join([self._packed[number] for number, _, _ in self.matcher.matches(word)])

    def _of_token(self, token: str) -> bytes:
        words = self.splitter(token)
        if len(words) == 1:
            return self._whole.get(words[0]) or self._of_words(words[0])
        whole, of_words = self._whole.get, self._of_words
        return b"".join([whole(word) or of_words(word) for word in words])

    def packed_ids(self, text: str) -> bytes:
        """Ids of `text`, four little-endian bytes each."""
        return b"".join(map(self._of_tokens, whitespace_tokens(text)))

    def with_offsets(self, text: str) -> list[tuple[int, int, int]]:
        """(id, first, past last character in `text`) of each piece."""
        found: list[tuple[int, int, int]] = []
        for word in self.splitter.aligned(text):
            for number, start, end in self.matcher.matches(word.word):
                found.append((number, min(word.starts[start:end]), max(word.ends[start:end])))
        return found
