"""The pages of docs/ do what they say: their Python is taken out of the text and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from minilm import minilm_directory

DOCS = Path(__file__).resolve().parent.parent / "docs"


def python_of(page: str) -> str:
    """All ```python blocks of a page, one after another, each on its own lines of the page so that errors name them."""
    text = (DOCS / page).read_text(encoding="utf-8")
    code = [""] * (text.count("\n") + 1)
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, match.start(1))
        lines = match.group(1).splitlines()
        code[first : first + len(lines)] = lines
    return "\n".join(code)


@pytest.mark.ci  # half a minute, most of it in the compiler
def test_an_own_head_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minilm").symlink_to(minilm_directory())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = python_of("own_head.md")
    exec(compile(code, "own_head.md", "exec"), names)
    losses = names["losses"]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses[-1] < 0.4 * losses[0]
    assert names["answers"].tolist() == [1, 0, 1, 0]
    body = code[code.index("import bert_jax") : code.index("losses = []")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
