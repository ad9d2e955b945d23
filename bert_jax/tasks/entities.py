"""Tags ↔ entities, and the scores of entities as conlleval (of the CoNLL shared tasks) counts them.

A tag is `O`, or `B I E S`, a hyphen and a kind (a bare `B` has the empty kind). An entity begins with B and S, with I
and E after O, after E and S, and after a tag of another kind; it goes on through I and E of its kind. So `I-X` after
`O` begins an entity as IOB1 writes it, and tags that no annotator would write are read all the same.
For B, I and O this is what the official script does; it does not know S, nor part an E from a B of the same kind
behind it, which here are two entities as anyone means them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bert_jax.errors import BertJaxError
from bert_jax.tasks.task import Prediction, Scores, TaggedExample

OUTSIDE = "O"
# Other names of the same: BMES has a middle, BILOU a last and a unit.
_PREFIXES = {"B": "B", "I": "I", "E": "E", "S": "S", "M": "I", "L": "E", "U": "S"}


class Entity(NamedTuple):
    """Words `first` to `past` (the one after the last) are an entity of a kind."""

    kind: str
    first: int
    past: int


def split_tag(tag: str) -> tuple[str, str] | None:
    """(prefix, kind) of a tag, prefix being one of O B I E S; None for what is no tag. A kind may hold hyphens."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, hyphen, kind = tag.partition("-")
    if prefix not in _PREFIXES or bool(hyphen) != bool(kind):
        return None
    return _PREFIXES[prefix], kind


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities of one sequence of tags, in order. Errors: `BertJaxError` for what is no tag."""
    found: list[Entity] = []
    last, last_kind, first = OUTSIDE, "", 0
    for place, tag in enumerate((*tags, OUTSIDE)):
        parts = split_tag(tag)
        if parts is None:
            raise BertJaxError(f"tag {tag!r}: expected O, or B, I, E or S, a hyphen and a kind, such as B-LOC")
        prefix, kind = parts
        begins = prefix in "BS" or last in "ESO" or kind != last_kind
        if last != OUTSIDE and (prefix == OUTSIDE or begins):
            found.append(Entity(last_kind, first, place))
        if prefix != OUTSIDE and begins:
            first = place
        last, last_kind = prefix, kind
    return found


def is_bioes(tags: Iterable[str]) -> bool:
    """Whether ends or single words have tags of their own among `tags`."""
    return any(parts is not None and parts[0] in "ES" for parts in map(split_tag, tags))


def tags_of(entities: Iterable[Entity], count: int, bioes: bool) -> tuple[str, ...]:
    """The tags of `count` words with these entities, none of which overlap: BIO (IOB2), or BIOES."""
    tags = [OUTSIDE] * count
    for kind, first, past in entities:
        for place in range(first, past):
            begins, ends = place == first, bioes and place == past - 1
            prefix = ("S" if ends else "B") if begins else ("E" if ends else "I")
            tags[place] = f"{prefix}-{kind}" if kind else prefix
    return tuple(tags)


def in_scheme(tags: Sequence[str], bioes: bool) -> tuple[str, ...]:
    """The same entities in the tags of one scheme, whatever `tags` are written in."""
    return tags_of(entities_of(tags), len(tags), bioes)


class Counts:
    """Entities wanted, found, and both, of each kind; what is shared by all scores of spans."""

    def __init__(self) -> None:
        self.wanted: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.right: Counter[str] = Counter()

    def add(self, wanted: Iterable[tuple[str, int, int]], found: Iterable[tuple[str, int, int]]) -> None:
        """One example: (kind, first, past) of each; said twice counts once."""
        wanted, found = set(wanted), set(found)
        self.wanted.update(kind for kind, _, _ in wanted)
        self.found.update(kind for kind, _, _ in found)
        self.right.update(kind for kind, _, _ in wanted & found)

    def scores(self) -> Scores:
        """`precision recall f1` over all, `macro_f1` (the mean over the kinds), and `precision_KIND` …; 0 for 0 / 0,
        as conlleval has it."""
        overall = _rates(self.right.total(), self.found.total(), self.wanted.total())
        result: Scores = dict(zip(("precision", "recall", "f1"), overall, strict=True))
        kinds = sorted({*self.wanted, *self.found})
        each = {kind: _rates(self.right[kind], self.found[kind], self.wanted[kind]) for kind in kinds}
        result["macro_f1"] = sum(rates[2] for rates in each.values()) / len(kinds) if kinds else 0.0
        for kind, rates in each.items():
            result |= {f"{name}_{kind}": rate for name, rate in zip(("precision", "recall", "f1"), rates, strict=True)}
        return result


def _rates(right: int, found: int, wanted: int) -> tuple[float, float, float]:
    precision, recall = right / found if found else 0.0, right / wanted if wanted else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0


def entity_scores(predictions: Sequence[Prediction], examples: Sequence[TaggedExample]) -> Scores:
    """`precision recall f1` of entities as conlleval computes them (as shares, not per cent), over all and by kind,
    `macro_f1`, and `accuracy` of the tags. Errors: `BertJaxError` for sequences of different length."""
    counts, right, words = Counts(), 0, 0
    found_bioes = is_bioes(tag for prediction in predictions for tag in prediction["tags"])
    wanted_bioes = is_bioes(tag for example in examples for tag in example.tags or ())
    for prediction, example in zip(predictions, examples, strict=True):
        found: Sequence[str] = prediction["tags"]
        wanted = example.tags or ()
        if len(found) != len(wanted):
            raise BertJaxError(f"{example.place}: {len(found)} tags are predicted for {len(wanted)} words with tags")
        if found_bioes != wanted_bioes:
            wanted = in_scheme(wanted, found_bioes)
        counts.add(entities_of(wanted), entities_of(found))
        right += sum(map(str.__eq__, found, wanted))
        words += len(found)
    return {**counts.scores(), "accuracy": right / words if words else None}
