"""Sentence splitting by rule, for Latin, CJK and other scripts with sentence-final marks.

A line end always ends a sentence. Inside a line:

* `。！？；｡` and their like end a sentence where they stand, no blank needed; so do `!` and `?` before a Chinese,
  Japanese or Korean character, and the final marks of Indic, Arabic, Armenian, Ethiopic, Khmer and Burmese writing.
* `.`, `!`, `?`, `…` (one or several) end one when a blank follows and what comes next does not begin in lower case.
* Closing quotes and brackets right after the mark stay with the sentence.
* Marks alone, as in `[...]`, are no sentence and open the next one.
* A period is no end after a title or other abbreviation that a name or number follows (`Mr.`, `e.g.`, `No. 5`), an
  initial (`J. Smith`), or a number that opens the line (`1. Wash.`). After `U.S.`, `Inc.`, `etc.`, and other words that
  may end a sentence it is one only when a word follows that commonly opens a sentence (`The`, `He`, `In`, ...).
"""

from __future__ import annotations

import re

_CLOSERS = "\"'”’»›)]}）」』】》〉〕］｝｣"
_OPENERS = "\"'“‘«‹([{¿¡„‚（「『【《〈〔［｛｢-–—"
_FINAL = "。！？；｡‼⁇⁈⁉।॥؟۔։።၊။។៕"  # end a sentence without a blank after them
_CJK = "\u2e80-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"

_C, _O = re.escape(_CLOSERS), re.escape(_OPENERS)
_CJK_OR_OPENER = _CJK + "“‘（「『【《〈"
# A match ends where the next sentence may begin. One character class first: that is what `re` scans for fast. A run of
# marks is tried once, from its first one, and never again (possessive): lines of dots take linear time.
_ASCII_MARK = re.compile(r"[.!?](?<![.!?]{2})[.!?]*+[\"')\]}]*+\s++(?=[\"'(\[{\-]*+[^a-z\s])")
_ANY_MARK = re.compile(
    rf"[.!?…{_FINAL}](?:"
    rf"(?<=[{_FINAL}])[{_FINAL}!?…]*+[{_C}]*+\s*+"
    rf"|(?<![.!?…]{{2}})[.!?…]*+[{_C}]*+(?:\s++(?=[{_O}]*+[^a-z\s])|(?<=[!?{_C}])(?=[{_CJK_OR_OPENER}]))"
    rf")"
)
_LONG_WORD = 32  # no abbreviation is longer
_WORD = re.compile(rf"[{_O}]*(\w+)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never the end: a name, a number or the rest of the phrase follows.
_NEVER = _words("""
    mr mrs ms mx dr prof messrs mme mlle hon rev fr sra st ste gen col lt brig capt cmdr maj sgt cpl adm gov sen rep
    pres amb supt insp det e.g i.e cf viz v vs eg ie ca approx esp incl resp mt ft op z.b d.h bzw bspw dt frl hr
""")
# Never the end before a digit.
_NUMBERED = _words("no nos nr p pp vol vols fig figs ch chap sec sect art eq eqs ver para par lit bd b c d fl n r s")
# The end only when a common opening word follows.
_MAYBE = _words("""
    inc ltd co corp jr etc dept univ assn bros est al ph.d m.d b.a m.a d.c jan feb mar apr jun jul aug sep sept oct nov
    dec mon tue wed thu fri sat sun ave blvd rd sq ed eds trans no vol p pp fig u.s u.k a.m p.m b.c a.d
""")
_OPENING = _words("""
    The This That These Those He She It They We You There Here In On At By To From For With As After Before During
    Since Until When While Where If Although Though Because However But And Or So Yet Then Thus Also An A His Her Its
    Their Our My Some Many Most Several Other Others Such According Both Each Every One Two All No Not Only Once Later
    Under Over Who What Why How Despite
""")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, stripped, none of them empty; see the rules at the top of this file."""
    if "\n" not in text:
        return _split_line(text)
    return [sentence for line in text.split("\n") for sentence in _split_line(line)]


def _split_line(line: str) -> list[str]:
    marks = _ASCII_MARK if line.isascii() else _ANY_MARK
    sentences = []
    line = line.strip()
    start = 0
    for match in marks.finditer(line):
        end = match.end()
        if line[match.start()] == "." and not _ends(line, start, match.start(), match.end()):
            continue
        if end < len(line) and line[end].islower() and line[match.start()] in ".!?…":
            continue
        sentence = line[start:end].strip()
        if len(sentence) < 8 and not any(map(str.isalnum, sentence)):
            continue  # "[...]" opens the next sentence
        sentences.append(sentence)
        start = end
    rest = line[start:].strip()
    if rest:
        sentences.append(rest)
    return sentences


def _ends(line: str, start: int, mark: int, after: int) -> bool:
    """Whether the period at `mark` ends a sentence that began at `start`; what follows begins at `after`."""
    if line.startswith("..", mark):
        return True
    begin = max(line.rfind(" ", max(start, mark - _LONG_WORD), mark) + 1, start)
    if mark - begin > _LONG_WORD:
        return True
    word = line[begin:mark].lstrip(_OPENERS)
    if not word:
        return False
    if word.isdigit():
        return begin > start
    if len(word) > 6 and "." not in word:
        return True
    lower = word.lower()
    if lower in _NEVER:
        return False
    if lower in _NUMBERED and after < len(line) and line[after].isdigit():
        return False
    if len(word) == 1 and line[after + 1 : after + 2] == ".":
        return False  # "z. B."
    initial = len(word) == 1 and word.isalpha() and word.isupper()
    dotted = "." in word and all(len(part) <= 2 for part in word.split("."))
    if initial or dotted or lower in _MAYBE:
        opening = _WORD.match(line, after)
        return opening is not None and opening.group(1) in _OPENING
    return True
