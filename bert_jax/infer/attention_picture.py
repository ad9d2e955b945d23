"""Heat maps of attention as one PNG: a grid with a row per layer and a column per head."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_jax.console import warn
from bert_jax.errors import BertJaxError
from bert_jax.files import atomic_writer
from bert_jax.infer.attention import Attention, TextOrPair, attentions

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

DOTS_PER_INCH = 100
LABELLED = 4
"""Most heat maps that are drawn large, with their tokens; more are small ones without."""
LARGEST = 60.0
"""Inches of a picture's longer side; past it everything shrinks."""


def write_picture(
    bert: Bert,
    inputs: Iterable[TextOrPair],
    path: Path,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    truncate: bool = False,
) -> None:
    """Write the heat maps of one input to `path`.

    Errors: `BertJaxError` as `attentions`, without matplotlib, for another number of inputs than one.
    """
    figure_class = _matplotlib_figure(path)
    given = list(itertools.islice(inputs, 2))
    if len(given) != 1:
        raise BertJaxError(
            f"{path} shows one input, and {'several' if given else 'none'} came: give one text, or --out FILE.html"
        )
    with atomic_writer(path) as file, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (answer,) = attentions(bert, given, layers, heads, truncate=truncate)
        draw(figure_class, answer).savefig(file, format="png", dpi=DOTS_PER_INCH)
    if any("missing from" in str(item.message) for item in caught):
        warn("the picture's font lacks some characters of the tokens, drawn as boxes; --out FILE.html shows them")


def _matplotlib_figure(path: Path) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BertJaxError(f"{path} needs matplotlib: pip install 'bert-jax[plot]'") from error
    return Figure


def draw(figure_class: Any, answer: Attention) -> Any:
    """The figure: darker is more; each head has its own scale from 0 to 1."""
    rows, columns, tokens, _ = answer.weights.shape
    labelled = rows * columns <= LABELLED
    side = max(4.0, 0.2 * tokens + 1.5) if labelled else 1.5
    side = min(side, LARGEST / max(rows, columns))
    figure = figure_class(figsize=(columns * side + 0.5, rows * side + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, column in itertools.product(range(rows), range(columns)):
        axes = grid[row][column]
        axes.imshow(answer.weights[row, column], vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        title = f"layer {answer.layers[row]}, head {answer.heads[column]}"
        axes.set_title(title, fontsize=10 if labelled else 7)
        if labelled:
            # A dollar sign typed in the text is no formula.
            size = min(9.0, 60 * side / max(tokens, 1))
            axes.set_xticks(range(tokens), answer.tokens, rotation=90, fontsize=size, parse_math=False)
            axes.set_yticks(range(tokens), answer.tokens, fontsize=size, parse_math=False)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
    return figure
