"""Pictures as PNG files, drawn by matplotlib (the `plot` extra), in fonts that have their characters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.files import atomic_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Families with Chinese, Japanese and Korean characters; those that are installed stand in where the first has none.
WIDE_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "SimHei",
)


def write_figure(make: Callable[[], Figure], path: Path) -> None:
    """Write what `make` draws as a PNG, in fonts that have its characters. Errors: `ImportError` without matplotlib."""
    from matplotlib import font_manager, rc_context

    known = {font.name for font in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in WIDE_FAMILIES if name in known)]
    with rc_context({"font.family": families, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn, as everywhere else
        figure = make()
        with atomic_writer(path) as file:
            figure.savefig(file, format="png", dpi=120)
