"""EM and F1 of Chinese answers, as CMRC 2018's official cmrc2018_evaluate.py (version 5) gives them; DRCD's too.

A segment is a Chinese character, one of a few signs, or an English word. F1 is that of the longest run of segments
that stands in both answers: the script names it a subsequence and takes it without gaps. The script cuts English with
NLTK's word tokenizer, whose rules stand here as one expression, so that nothing has to be installed or fetched: they
agree on whatever stands between Chinese characters in CMRC and DRCD. NLTK's sentence splitter, a trained model that the
script runs first, is left out: it matters for full stops inside of one answer's English only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bert_jax.errors import BertJaxError
from bert_jax.tasks.squad_metric import percent
from bert_jax.tasks.task import Prediction, Question, Scores

# One sign each, removed where punctuation is. The script also names "……", which no single character equals: it stays.
_SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile("[\u4e00-\u9fa5]")
# Where NLTK's English word tokenizer cuts, after blanks; the signs above are gone before.
_SIGN = r"""\.{2,} | '' | [;@\#$%&?!\[\](){}<>"«»‘„\u2012-\u2015] | ,(?!\d) | \.(?=[\])}>"'»\ ]*$)"""
_CUTS = rf"""{_SIGN} | (?:'(?:s|m|d|ll|re|ve)? | n't)(?=\s|$|{_SIGN})
             | (?<!\w)'(?!(?:s|m|d|t|n|ll|re|ve)\b)(?=\w)"""
_ENGLISH = re.compile(rf"{_CUTS} | (?: (?!{_CUTS}) \S )+", re.VERBOSE)


def segments(text: str) -> list[str]:
    """Segments of `text` in lower case, without the signs.

    >>> segments("《战国无双3》由 Omega-Force 开发")
    ['战', '国', '无', '双', '3', '由', 'omegaforce', '开', '发']
    """
    found: list[str] = []
    english = ""
    for character in without_signs(text):
        if _CHINESE.match(character):
            found += [*_ENGLISH.findall(english), character]
            english = ""
        else:
            english += character
    return found + _ENGLISH.findall(english)


def without_signs(text: str) -> str:
    """`text` in lower case without blanks at its ends, then without the signs."""
    return "".join(character for character in text.lower().strip() if character not in _SIGNS)


def longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run of neighbours that stands in both."""
    best = 0
    ends = [0] * (len(second) + 1)  # ends[j]: the longest run that ends before first[i] and second[j]
    for item in first:
        before = 0
        for place, other in enumerate(second, start=1):
            before, ends[place] = ends[place], before + 1 if item == other else 0
            best = max(best, ends[place])
    return best


def run_f1(answer: str, right: str) -> float:
    """F1 of the longest common run of segments; 0 where there is none."""
    given, wanted = segments(answer), segments(right)
    shared = longest_run(wanted, given)
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def chinese_scores(predictions: Sequence[Prediction], examples: Sequence[Question]) -> Scores:
    """`exact` and `f1` as percentages, and the `average` of both by which CMRC ranks.

    Each answer's mark is the best over the right answers; an answer that is missing (None) gets 0.
    Errors: `BertJaxError` for an example without answers.
    """
    exact, f1 = [], []
    for prediction, example in zip(predictions, examples, strict=True):
        if not example.answers:
            raise BertJaxError(f"{example.place} has no answers to score against: expected a set with answers")
        answer, right = prediction["answer"], [text for text, _ in example.answers]
        exact.append(float(answer is not None and without_signs(answer) in map(without_signs, right)))
        f1.append(0.0 if answer is None else max(run_f1(answer, text) for text in right))
    scores = {"exact": percent(exact), "f1": percent(f1)}
    return scores | {"average": None if not exact else (scores["exact"] + scores["f1"]) / 2}  # type: ignore[operator]
