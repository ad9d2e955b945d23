"""The published WordPiece rules written out slowly, one after another, as an oracle; and strings to try them on.

Where this Python has Unicode 15.0 the oracle asks `unicodedata` and `str`, elsewhere the frozen tables.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from bert_jax.text import unicode_tables

NATIVE = unicodedata.unidata_version == "15.0.0"


def in_category(char: str, table: str, *categories: str) -> bool:
    if NATIVE:
        return unicodedata.category(char) in categories
    return char in unicode_tables.character_set(table)


def lowered(text: str) -> str:
    return text.lower() if NATIVE else unicode_tables.lower(text)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text) if NATIVE else unicode_tables.decomposed(text)


def is_punctuation(char: str) -> bool:
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return in_category(char, "punctuation", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po")


def is_chinese(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def official_words(text: str, lower: bool = True) -> list[str]:
    """The words of a text, by the whole-text passes of the published tokenizer."""
    cleaned = ""
    for char in text:
        if char in "\t\n\r" or in_category(char, "blank", "Zs"):
            cleaned += " "
        elif not (char in "\0\ufffd" or in_category(char, "control", "Cc", "Cf")):
            cleaned += char
    spaced = "".join(f" {char} " if is_chinese(ord(char)) else char for char in cleaned)
    words: list[str] = []
    for token in spaced.split():
        if lower:
            token = "".join(
                char for char in decomposed(lowered(token)) if not in_category(char, "nonspacing_mark", "Mn")
            )
        words += "".join(f" {char} " if is_punctuation(char) else char for char in token).split()
    return words


def official_pieces(word: str, vocabulary: dict[str, int], unknown: str = "[UNK]") -> list[str]:
    """The longest entry first, again and again; all or nothing."""
    if len(word) > 200:
        return [unknown]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        candidates = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
        piece = next((candidate for candidate in candidates if candidate in vocabulary), None)
        if piece is None:
            return [unknown]
        pieces.append(piece)
        start += len(piece) - (2 if start else 0)
    return pieces


def official_tokens(text: str, vocabulary: dict[str, int], lower: bool) -> list[str]:
    return [piece for word in official_words(text, lower) for piece in official_pieces(word, vocabulary)]


# Characters that have broken tokenizers: each line a family; drawn from beside plain letters and any code point at all.
POOLS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    " \t\n\r .,;'\"[]#$`^~|",
    "\x00\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u1680\u180e\u2000\u2028\u2029\u200b\u200d\u202f\u205f\u3000\ufeff\ufffd",
    "ΑΒΣσςΆά\u0345ΣΣΣ'’·.",
    "\u0300\u0301\u0323\u0307\u0345\u034f\u0591\u05b0\u3099\u302e\u302f\U0001d165\U0001d16d\U00016ff0\u0f71\u0f72",
    "İıŞşẞßǅǆﬁﬃÅÅÑñốÇçĀ\u1fef\u037e\u0340\u0958ÀÉÎÕÜ",
    "中文汉字漢字豈\uf900\ufa0e\U0002f800\U00020000\U0002a6e0日本語、。！",
    "한국어각힣각가각",
    "ひらがなカタカナがぱﾊﾟ",
    "АБВгдёйЙЁ֍אבגشسّئآ",
    "\ue000\uf8ff\U000e0001\U000e0041\ud800\udfff\U0001f600\U0001f1e6€™½①⁄",
)


def hostile_strings(count: int, seed: int = 1) -> Iterator[str]:
    """Strings of 0 to 23 characters, the same on every Python (a plain congruential generator draws them)."""
    state = seed

    def draw(below: int) -> int:
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % below

    for _ in range(count):
        favourites = [POOLS[draw(len(POOLS))] for _ in range(3)]
        text = ""
        for _ in range(draw(24)):
            choice = draw(8)
            pool = favourites[choice % 3] if choice < 6 else POOLS[draw(3)]
            text += chr(draw(0x110000)) if choice == 7 and draw(2) else pool[draw(len(pool))]
        yield text
