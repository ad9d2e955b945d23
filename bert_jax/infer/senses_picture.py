"""The picture of `predict senses`: the uses of a word in a plane, what tells layers apart, and the sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from bert_jax.errors import BertJaxError
from bert_jax.figure_file import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Dark enough for white numbers; the markers, with room for a number each, are for who cannot tell the colours apart.
COLOURS = ("#0072B2", "#C44E00", "#00795A", "#A64D79", "#5B4FA0", "#8C6D00", "#000000", "#7A3B2E")
MARKERS = ("o", "s", "D", "p", "h", "8", "d", "H")
STATIC_COLOUR = "#555555"
SHOWN = 24  # sentences written beside the points
LINE = 58  # columns of a sentence to the line


def write_picture(answers: Iterator[dict[str, Any]], path: Path) -> None:
    """Write the one answer of `predict senses` as a PNG. Errors: `BertJaxError` when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401 - said before the work, not after it
    except ImportError as error:
        raise BertJaxError(
            f"{path} cannot be drawn without matplotlib: pip install 'bert-jax[plot]', or give --out FILE.jsonl"
        ) from error
    answer = next(answers)
    write_figure(lambda: draw(answer), path)


def draw(answer: dict[str, Any]) -> Figure:
    """The figure: the points of the best layer on the left, every layer's silhouette below, sentences on the right."""
    from matplotlib.figure import Figure

    lines = _sentence_lines(answer)
    figure = Figure(figsize=(13, max(7.0, 0.24 * len(lines) + 1.2)), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2.4), height_ratios=(3, 1))
    _draw_points(figure.add_subplot(grid[0, 0]), answer)
    _draw_layers(figure.add_subplot(grid[1, 0]), answer)
    _draw_sentences(figure.add_subplot(grid[:, 1]), lines)
    return figure


def _colour(group: int) -> str:
    return COLOURS[group % len(COLOURS)]


def _draw_points(axes: Axes, answer: dict[str, Any]) -> None:
    x, y = answer["static"]["point"]
    axes.scatter([x], [y], s=170, marker="*", color=STATIC_COLOUR, zorder=3)
    axes.annotate(
        "static embedding,\nthe same in every sentence",
        (x, y),
        xytext=(9, -4),
        textcoords="offset points",
        color=STATIC_COLOUR,
        fontsize=9,
        verticalalignment="top",
    )
    for number, use in enumerate(answer["uses"], start=1):
        group, (x, y) = use["group"], use["point"]
        marker = MARKERS[group % len(MARKERS)]
        axes.scatter([x], [y], s=230, marker=marker, color=_colour(group), alpha=0.85, zorder=2)
        axes.annotate(
            str(number),
            (x, y),
            color="white",
            fontsize=8,
            fontweight="bold",
            horizontalalignment="center",
            verticalalignment="center",
            zorder=4,
        )
    first, second = (round(100 * share) for share in answer["axes"])
    axes.set_xlabel(f"first principal axis ({first} % of the variance)")
    axes.set_ylabel(f"second ({second} %)")
    axes.set_title(f"“{answer['word']}” in layer {answer['best_layer']} of {len(answer['layers']) - 1}")
    axes.margins(0.18)
    axes.grid(alpha=0.25)


def _draw_layers(axes: Axes, answer: dict[str, Any]) -> None:
    """A line over the layers of what the best one was chosen by; a higher point parts the senses better."""
    if answer["chosen_by"] == "silhouette":
        values = [layer["silhouette"] for layer in answer["layers"]]
        axes.set_ylabel("silhouette")
    else:
        values = [1 - layer["similarity"][0][-1] for layer in answer["layers"]]
        axes.set_ylabel("1 − cosine")
    heights = [float("nan") if value is None else value for value in values]
    axes.plot(heights, marker="o", color="#444444", zorder=2)
    best = answer["best_layer"]
    axes.scatter([best], [heights[best]], s=140, color=COLOURS[1], zorder=3)
    axes.axhline(0, color="#444444", linewidth=0.6)
    axes.margins(y=0.2)
    axes.set_xticks(range(len(values)))
    axes.set_xlabel("layer (0: embeddings with positions, no context; never chosen)")
    axes.grid(alpha=0.25)


def _sentence_lines(answer: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """(text, colour, bold) of the lines on the right: each group's name, then its numbered sentences."""
    lines: list[tuple[str, str, bool]] = []
    uses = answer["uses"]
    for group in sorted({use["group"] for use in uses}):
        name = answer["senses"][group] if answer["senses"] else f"group {group + 1} (found, not given)"
        lines += [(part, _colour(group), True) for part in _wrapped(name)[:2]]
        for number, use in list(enumerate(uses, start=1))[:SHOWN]:
            if use["group"] == group:
                first, *others = _wrapped(_excerpt(answer["sentences"][use["sentence"]], use))
                lines += [
                    (f"{number:>3}  {first}", "black", False),
                    *((f"       {part}", "black", False) for part in others),
                ]
        lines.append(("", "black", False))
    if len(uses) > SHOWN:
        lines.append((f"and {len(uses) - SHOWN} more", "black", False))
    return lines


def _wrapped(text: str) -> list[str]:
    """Lines of `text`, shorter where its characters are wide."""
    wide = sum(east_asian_width(char) in "WF" for char in text)
    return textwrap.wrap(text, LINE // 2 if wide > len(text) // 4 else LINE) or [""]


def _excerpt(sentence: str, use: dict[str, Any]) -> str:
    """The sentence with «marks» around the use, cut to what stands near it, at a blank where there is one."""
    before = sentence[: use["start"]]
    after = sentence[use["end"] :]
    if len(before) > LINE:
        near = before[-LINE:]
        before = "… " + (near.partition(" ")[2] or near)
    if len(after) > LINE:
        near = after[:LINE]
        after = (near.rpartition(" ")[0] or near) + " …"
    return f"{before}«{sentence[use['start'] : use['end']]}»{after}"


def _draw_sentences(axes: Axes, lines: list[tuple[str, str, bool]]) -> None:
    axes.set_axis_off()
    for index, (text, colour, bold) in enumerate(lines):
        weight = "bold" if bold else "normal"
        place = 1 - index / max(len(lines), 26)
        axes.text(0, place, text, color=colour, fontsize=9, fontweight=weight, transform=axes.transAxes)
