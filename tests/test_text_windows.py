"""Windows of texts of any length: every token is kept once, and never a special one."""

from __future__ import annotations

import pytest

from bert_jax.text.windows import Window, text_windows


@pytest.mark.parametrize(("count", "width"), [(0, 6), (6, 6), (7, 6), (30, 6), (31, 7), (9, 1)])
def test_every_token_is_kept_once_and_no_special(count: int, width: int) -> None:
    kept = []
    for window in text_windows(count, width):
        assert 1 <= window.first <= window.past <= window.end - window.begin + 1
        kept += [window.begin + place - 1 for place in range(window.first, window.past)]
    assert kept == list(range(count))


def test_a_text_that_fits_is_one_window() -> None:
    assert text_windows(6, 6) == [Window(0, 6, 1, 7)]
    assert len(text_windows(7, 6)) == 2
