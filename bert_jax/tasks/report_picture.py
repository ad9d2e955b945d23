"""The picture beside a report: a confusion matrix, predicted over right numbers, or bars by length or rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bert_jax.console import log
from bert_jax.figure_file import write_figure
from bert_jax.tasks.report_parts import Bars, Matrix, Picture, Scatter, cut, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR = "#0072B2"
LABEL = 28  # characters of a label beside an axis


def write_picture(picture: Picture, title: str, path: Path) -> bool:
    """Write the PNG; False, and one line in the log, where matplotlib is not installed."""
    try:
        write_figure(lambda: draw(picture, title), path)
    except ImportError:
        log(f"{path.name} is not drawn without matplotlib: pip install 'bert-jax[plot]'")
        return False
    return True


def draw(picture: Picture, title: str) -> Figure:
    """The figure of one picture."""
    from matplotlib.figure import Figure

    size = max(5.0, 1.9 + 0.55 * len(picture.labels)) if isinstance(picture, Matrix) else 5.0
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.add_subplot()
    match picture:
        case Matrix():
            _draw_matrix(axes, picture)
        case Scatter():
            _draw_scatter(axes, picture)
        case Bars():
            _draw_bars(axes, picture)
    axes.set_title(cut(title, 70))
    return figure


def _draw_matrix(axes: Axes, picture: Matrix) -> None:
    """Colours are shares of a row, so that rare labels are seen too; numbers are counts."""
    counts = np.asarray(picture.counts, np.int64).reshape(len(picture.labels), -1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, color=colour, fontsize=9, ha="center", va="center")
    names = [cut(label, LABEL) for label in picture.labels]
    upright = max(map(len, names), default=0) > 5
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    axes.set_yticks(range(len(names)), names)
    some = "" if picture.of is None else f" (the {len(names)} of {picture.of} labels in most mistakes)"
    axes.set_xlabel(f"predicted{some}")
    axes.set_ylabel("true")


def _draw_scatter(axes: Axes, picture: Scatter) -> None:
    x, y = np.asarray(picture.right, np.float64), np.asarray(picture.predicted, np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    axes.scatter(x, y, s=14, alpha=0.4, color=COLOUR, edgecolors="none")
    if len(x):
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color="#444444", linewidth=0.8, linestyle="--")
    axes.set_xlabel(f"right {plain(picture.name)}")
    axes.set_ylabel(f"predicted {plain(picture.name)}")
    axes.grid(alpha=0.25)


def _draw_bars(axes: Axes, picture: Bars) -> None:
    heights = [0.0 if value is None else value for value in picture.values]
    axes.bar(range(len(heights)), heights, color=COLOUR, width=0.7)
    for place, (height, count) in enumerate(zip(heights, picture.counts, strict=True)):
        axes.text(place, height, f"n = {count}", fontsize=8, ha="center", va="bottom")
    axes.set_xticks(range(len(heights)), [plain(group) for group in picture.groups])
    axes.set_xlabel(picture.across)
    axes.set_ylabel(picture.up)
    axes.margins(y=0.12)
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)
