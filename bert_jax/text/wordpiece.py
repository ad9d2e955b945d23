"""WordPiece: longest match first, equal to google-research/bert's `tokenization.py` on every string, and memoised.

The pieces of a whitespace-separated token depend on that token alone (`normalise.py`), so a dictionary from token to
ids, kept as little-endian bytes, turns running text into a split, look-ups and one join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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


def lengths_by_beginning(entries: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """For each beginning of `_BEGINNING` characters the lengths worth trying, longest first.

    Those of the entries with that beginning and all shorter than a beginning: no other can match, so that looking
    only these up gives the result of trying every length.
    """
    lengths: dict[str, set[int]] = {}
    for entry in entries:
        if len(entry) >= _BEGINNING:
            lengths.setdefault(entry[:_BEGINNING], set()).add(len(entry))
    return {beginning: tuple(sorted(found.union(_SHORT_LENGTHS), reverse=True)) for beginning, found in lengths.items()}


class WordPieces:
    """Words → ids over one vocabulary. `vocabulary`: entry → id; `unknown`: the id of [UNK]."""

    def __init__(self, vocabulary: dict[str, int], unknown: int):
        self.unknown = unknown
        self.vocabulary = vocabulary
        further = {
            entry[len(CONTINUES) :]: number for entry, number in vocabulary.items() if entry.startswith(CONTINUES)
        }
        self._first = lengths_by_beginning(vocabulary), vocabulary
        self._further = lengths_by_beginning(further), further

    def matches(self, word: str) -> list[tuple[int, int, int]]:
        """(id, first, past last character) of each piece of `word`; an unknown word is one piece."""
        size = len(word)
        if size > MAX_WORD_CHARACTERS:
            return [(self.unknown, 0, size)]
        found: list[tuple[int, int, int]] = []
        lengths, numbers = self._first
        start = 0
        while start < size:
            for length in lengths.get(word[start : start + _BEGINNING], _SHORT_LENGTHS):
                number = numbers.get(word[start : start + length])
                if number is not None:
                    break
            else:
                return [(self.unknown, 0, size)]
            end = min(start + length, size)  # at the end of the word the part looked up was shorter
            found.append((number, start, end))
            lengths, numbers = self._further
            start = end
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
        packed = self._packed
        return b"".join([packed[number] for number, _, _ in self.matcher.matches(word)])

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
