"""Somebody else's arrays by name → our parameters, with a report of what became of each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.bert_config import BertConfig
from bert_jax.errors import BertJaxError
from bert_jax.formats.names import MODULES, Layout, Name, names, to_ours
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.model.parameters import flatten, unflatten

CLASSIFIERS = ("classification", "tagging", "multiple_choice")  # heads that have one name in every layout
_SHOWN = 5
_NOT_OURS = "not a parameter of this model"
_FLOATS = ("float32", "float16", "bfloat16", "float64")


class Tensor(NamedTuple):
    """One array of a checkpoint, not read yet."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


Place = Callable[[np.ndarray], Any]
"""Puts an array where it is wanted; the one it was given is dropped."""


def as_read(array: np.ndarray) -> np.ndarray:
    """The array, left where it was read to."""
    return array


@dataclass
class Report:
    """What became of each array of a conversion."""

    taken: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    """Names that are spelt otherwise than the layout's own: as found → as understood."""
    initialised: list[str] = field(default_factory=list)
    """Parameters of ours that were not there and were made anew."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Arrays that were left where they are, and why."""
    converted: dict[str, str] = field(default_factory=dict)
    """Arrays that were not float32: name → dtype."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """For a person: one line for each kind of thing that happened."""
        lines = [f"taken: {self.taken} arrays"]
        if self.renamed:
            lines.append(f"renamed: {_some([f'{old} → {new}' for old, new in self.renamed.items()])}")
        if self.initialised:
            lines.append(f"initialised anew: {_some(self.initialised)}")
        for reason in dict.fromkeys(self.ignored.values()):
            lines.append(f"ignored, {reason}: {_some([name for name, why in self.ignored.items() if why == reason])}")
        if self.converted:
            kinds = ", ".join(sorted(set(self.converted.values())))
            lines.append(f"converted to float32: {len(self.converted)} arrays of {kinds}")
        return lines

    def left_out(self) -> str:
        """The arrays that are no parameters of the model, in words; empty without any."""
        names = [name for name, why in self.ignored.items() if why == _NOT_OURS]
        return _some(names) if names else ""


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} ({', '.join(items[:_SHOWN])}{more})"


class Adopted(NamedTuple):
    """What a checkpoint holds in our terms; `read` gives the nested dict of float32 arrays, one array at a time."""

    heads: tuple[str, ...]
    classes: int
    pooler: bool
    report: Report
    read: Callable[..., dict[str, Any]]
    """`read(partial=True)` leaves out the head that `UNTIED` speaks of; without, it is refused. `place` is given each
    array as it is read, so that one is all that is held twice."""


UNTIED = (
    "its decoder is not the word embeddings, as a BERT's is (tie_word_embeddings), so the masked_lm head cannot be kept"
)


def adopt(
    tensors: Mapping[str, Tensor], layout: Layout, config: BertConfig, path: Path, classifier: str = "classification"
) -> Adopted:
    """Match the arrays of a checkpoint at `path` with the parameters of `config`.

    `classifier`: the head that an array called only 'classifier' belongs to. Errors: `BertJaxError` for a checkpoint
    that holds no BERT, misses parameters or has them in another shape, or whose decoder is not its word embeddings.
    """
    report = Report()
    found = _canonical(tensors, layout, path, report)
    heads = tuple(head for head in _heads_of(found, layout) if head not in CLASSIFIERS or head == classifier)
    classes = _classes(found, layout, heads, path)
    pooler = _module_name("pooler", layout) in found
    if "classification" in heads and not pooler:
        raise BertJaxError(
            f"{path} has a classifier and no pooler, which a classifier of texts reads: if it labels tokens, its "
            'configuration should name "architectures": ["BertForTokenClassification"]'
        )
    if config.num_hidden_layers > len(found):  # before as many are described as a configuration may ask for
        raise BertJaxError(
            f"{path} holds {len(found)} arrays, too few for the {config.num_hidden_layers} layers that are asked for: "
            "do the two belong together?"
        )
    model = make_model(config, heads=heads, classes=classes, pooler=pooler)
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten(abstract_parameters(model)).items()}
    wanted = names(layout, shapes)
    _check(wanted, found, path)
    _ignore_the_rest(found, wanted, layout, report)
    report.taken = len(wanted)
    report.converted = {
        found[name.theirs].name: found[name.theirs].tensor.dtype
        for name in wanted.values()
        if found[name.theirs].tensor.dtype != "float32"
    }

    def read(partial: bool = False, place: Place = as_read) -> dict[str, Any]:
        tied = _is_tied(found, layout)
        if not tied and not partial:
            raise BertJaxError(f"{path}: {UNTIED}: tie them, or remove the decoder {found[_DECODER[layout]].name}")
        kept = {ours: name for ours, name in wanted.items() if tied or not ours.startswith("masked_lm/")}
        leaves = {
            ours: place(to_ours(found[kept[ours].theirs].tensor.read(), kept[ours], shapes[ours]))
            for ours in sorted(kept, key=lambda ours: -math.prod(shapes[ours]))  # large copies before much is held
        }
        return unflatten({ours: leaves[ours] for ours in kept})

    return Adopted(heads, classes, pooler, report, read)


class _Found(NamedTuple):
    name: str
    """As it stands in the checkpoint."""
    tensor: Tensor


_SLOTS = re.compile(r"(/|^)(adam_[mv]|lamb_[mv]|Adam(_\d)?|Momentum|beta[12]_power|global_step|good_steps|loss_scale)$")
# Spellings of other writers → the layout's own.
_SPELLINGS: dict[Layout, tuple[tuple[str, str], ...]] = {
    "google": (
        (r"layer_normalization(_\d+)?/", "LayerNorm/"),
        (r"LayerNorm_\d+/", "LayerNorm/"),
        (r":0$", ""),
    ),
    "torch": (
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
        (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias"),
    ),
    "flax": (),
}
_WORDS = "embeddings/word_embeddings"
_DECODER = {"torch": "cls.predictions.decoder.weight", "flax": "cls/predictions/decoder/kernel"}


def _canonical(tensors: Mapping[str, Tensor], layout: Layout, path: Path, report: Report) -> dict[str, _Found]:
    """Arrays by the layout's own names: other scopes and spellings understood, optimizer slots left out."""
    scope = _scope(tensors, layout, path)
    dot = "." if layout == "torch" else "/"
    found: dict[str, _Found] = {}
    later: list[tuple[str, str, Tensor]] = []
    for name, tensor in tensors.items():
        if _SLOTS.search(name):
            report.ignored[name] = "state of an optimizer"
            continue
        if name.endswith(f"embeddings{dot}position_ids"):
            report.ignored[name] = "a constant"
            continue
        understood = _without_scope(name, scope, dot)
        for pattern, spelling in _SPELLINGS[layout]:
            understood = re.sub(pattern, spelling, understood)
        if understood == name or (not scope and understood == f"bert{dot}{name}"):  # plain encoders have no prefix
            found[understood] = _Found(name, tensor)
        else:
            later.append((understood, name, tensor))
    for understood, name, tensor in later:  # a name spelt as it should be comes before one that is understood so
        if understood in found:
            report.ignored[name] = f"another spelling of {understood}"
            continue
        found[understood] = _Found(name, tensor)
        report.renamed[name] = understood
    return found


def _scope(tensors: Mapping[str, Tensor], layout: Layout, path: Path) -> str:
    """What stands before `embeddings…` in the names: `bert/` as published, nothing, or somebody's own scope."""
    dot = "." if layout == "torch" else "/"
    words = _module_name(_WORDS, layout).removeprefix(f"bert{dot}")
    scopes = sorted(
        name.removesuffix(words) for name in tensors if name.endswith(words) and (f"{dot}{name}").endswith(dot + words)
    )
    if not scopes:
        some = ", ".join(sorted(tensors)[:3])
        raise BertJaxError(f"{path} holds no BERT: none of its {len(tensors)} arrays ({some}, …) is {words}")
    if len(scopes) > 1:
        raise BertJaxError(f"{path} holds {len(scopes)} encoders, under {' and '.join(map(repr, scopes))}: keep one")
    return scopes[0]


def _without_scope(name: str, scope: str, dot: str) -> str:
    """`name` as if the encoder's scope were the published one; heads lie beside the encoder, under what is above it."""
    above = scope.removesuffix(f"bert{dot}")
    for part in ("embeddings", "encoder", "pooler"):
        if name.startswith(f"{scope}{part}{dot}"):
            return f"bert{dot}{name.removeprefix(scope)}"
    return name.removeprefix(above) if above != scope else name


def _module_name(module: str, layout: Layout) -> str:
    """Name in `layout` of the first array of one of our modules."""
    leaf = {"pooler": "pooler/kernel", _WORDS: _WORDS}.get(module, f"{module}/bias")
    return names(layout, {leaf: (1, 1) if leaf != f"{module}/bias" else (1,)})[leaf].theirs


def _heads_of(found: Mapping[str, _Found], layout: Layout) -> list[str]:
    heads = dict.fromkeys(row.ours.split("/")[0] for row in MODULES)
    return [
        head
        for head in heads
        if head not in ("embeddings", "encoder", "pooler") and _module_name(head, layout) in found
    ]


def _classes(found: Mapping[str, _Found], layout: Layout, heads: Sequence[str], path: Path) -> int:
    for head in ("classification", "tagging"):
        if head in heads:
            shape = found[_module_name(head, layout)].tensor.shape
            if len(shape) != 1 or shape[0] < 1:
                raise BertJaxError(
                    f"{path}: the bias of its {head} head has the shape {shape}: expected one axis of classes"
                )
            return shape[0]
    return 2


def _check(wanted: Mapping[str, Name], found: Mapping[str, _Found], path: Path) -> None:
    missing = [name.theirs for name in wanted.values() if name.theirs not in found]
    if missing:
        raise BertJaxError(f"{path} misses {_some(missing)}: the model that its configuration describes has them")
    wrong = [name for name in wanted.values() if found[name.theirs].tensor.shape != name.shape]
    if wrong:
        first = wrong[0]
        raise BertJaxError(
            f"{path}: {len(wrong)} arrays have another shape than the configuration says; the first, "
            f"{found[first.theirs].name}, is {found[first.theirs].tensor.shape}: expected {first.shape}"
        )
    for name in wanted.values():
        _, tensor = found[name.theirs]
        if tensor.dtype not in _FLOATS:
            raise BertJaxError(
                f"{path}: {found[name.theirs].name} holds {tensor.dtype}: expected one of {', '.join(_FLOATS)}; "
                "quantised weights are not read"
            )


def _ignore_the_rest(found: dict[str, _Found], wanted: Mapping[str, Name], layout: Layout, report: Report) -> None:
    known = {name.theirs for name in wanted.values()}
    for name, item in found.items():
        if name == _DECODER.get(layout):
            report.ignored[item.name] = "the word embeddings again"
        elif name not in known:
            report.ignored[item.name] = _NOT_OURS
            report.renamed.pop(item.name, None)


def _is_tied(found: Mapping[str, _Found], layout: Layout) -> bool:
    """Whether the decoder, where there is one beside them, is the word embeddings."""
    decoder = found.get(_DECODER.get(layout, ""))
    if decoder is None:
        return True
    words, own = found[_module_name(_WORDS, layout)].tensor.read(), decoder.tensor.read()
    return bool(np.array_equal(own.T if layout == "flax" else own, words))
