"""WordPiece: longest match first, equal to google-research/bert's `tokenization.py` on every string, and memoised.

The pieces of a whitespace-separated token depend on that token alone (`normalise.py`), so a dictionary from token to
ids, kept as little-endian bytes, turns running text into a split, look-ups and one join.
"""

from __future__ import annotations

from collections.abc import Callable

from bert_jax.text.normalise import WordSplitter, whitespace_tokens

MAX_WORD_CHARACTERS = 200  # longer words are unknown
CONTINUES = "##"

_MEMO_ENTRIES = 1 << 17  # per generation, two are kept: some 25 MB each
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


class WordPieces:
    """Words → ids over one vocabulary. `vocabulary`: entry → id; `unknown`: the id of [UNK]."""

    def __init__(self, vocabulary: dict[str, int], unknown: int):
        self.unknown = unknown
        self._whole = vocabulary
        self._continuing = {
            entry[len(CONTINUES) :]: number for entry, number in vocabulary.items() if entry.startswith(CONTINUES)
        }
        # No substring longer than the longest entry can match, so none is looked up: the same result, sooner.
        self._longest = max(map(len, vocabulary), default=0)

    def matches(self, word: str) -> list[tuple[int, int, int]]:
        """(id, first, past last character) of each piece of `word`; an unknown word is one piece."""
        if len(word) > MAX_WORD_CHARACTERS:
            return [(self.unknown, 0, len(word))]
        found: list[tuple[int, int, int]] = []
        entries, start = self._whole, 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                number = entries.get(word[start:end])
                if number is not None:
                    break
            else:
                return [(self.unknown, 0, len(word))]
            found.append((number, start, end))
            entries, start = self._continuing, end
        return found


class TextPieces:
    """Text → ids: the words of `splitter` cut by `matcher`."""

    def __init__(self, splitter: WordSplitter, matcher: WordPieces):
        self.splitter = splitter
        self.matcher = matcher
        words = Memo(self._of_word)
        self._of_words = words.__getitem__
        self._of_tokens = Memo(self._of_token).__getitem__

    def _of_word(self, word: str) -> bytes:
        return b"".join(number.to_bytes(4, "little") for number, _, _ in self.matcher.matches(word))

    def _of_token(self, token: str) -> bytes:
        return b"".join(map(self._of_words, self.splitter(token)))

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
