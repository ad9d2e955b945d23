"""Long inputs: an error, a cut, or windows that keep every token once, where it has most context."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.infer.windows import Fit, sides, windows


def by_context(count: int, width: int, stride: int) -> list[tuple[int, ...]]:
    """Which window keeps each token, by trying all: the earliest of those where it stands farthest from an edge."""
    begins = [*range(0, count - width, stride), count - width]
    kept: list[list[int]] = [[] for _ in begins]
    for token in range(count):
        context = []
        for begin in begins:
            left = token - begin if begin else count
            right = begin + width - 1 - token if begin + width < count else count
            context.append(min(left, right) if begin <= token < begin + width else -1)
        kept[context.index(max(context))].append(token)
    return [tuple(tokens) for tokens in kept]


@pytest.mark.parametrize(
    ("count", "width", "stride"),
    [
        (11, 10, 5),
        (25, 10, 5),
        (23, 10, 3),
        (40, 10, 10),
        (31, 7, 1),
        (12, 6, 4),
        (9, 1, 1),
        (9, 2, 1),
        (9, 2, 2),
        (9, 3, 2),
    ],
)
def test_every_token_is_kept_once_where_it_has_most_context(count: int, width: int, stride: int) -> None:
    found = windows(count, width, stride)
    expected = by_context(count, width, stride)
    tokens = []
    for index, window in enumerate(found):
        assert window.end - window.begin == width
        first = window.first if index else 1  # [CLS] of the first and [SEP] of the last are kept too
        past = window.past if index + 1 < len(found) else window.past - 1
        tokens.append(tuple(window.begin + row - 1 for row in range(first, past)))
    assert [token for kept in tokens for token in kept] == list(range(count))
    assert tokens == expected
    assert found[0].first == 0
    assert found[-1].past == width + 2
    assert all(after.begin - before.begin <= stride for before, after in pairwise(found))


def test_a_text_that_fits_is_one_window() -> None:
    fit = Fit(16, 64, stride=4)
    assert fit.fit(14, None, "x") == (14, None, [(0, 14, 0, 16)])
    assert fit.fit(0, None, "x") == (0, None, [(0, 0, 0, 2)])
    assert fit.fit(3, 4, "x") == (3, 4, [(0, 3, 0, 10)])


def test_cuts_are_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fit = Fit(16, 64, truncate=True)
    assert fit.fit(20, None, "x")[0] == 14
    assert fit.fit(20, 5, "x")[:2] == (8, 5)
    fit.fit(3, None, "x")
    with caplog.at_level(logging.WARNING, "bert_jax"):
        fit.report()
    assert [record.getMessage() for record in caplog.records] == [
        "warning: 2 of 3 inputs were longer than 16 tokens and were cut"
    ]


def test_too_long_names_length_and_limit() -> None:
    with pytest.raises(
        BertJaxError, match="input 3 is 17 tokens long .* limit of 16: give --truncate .* --window STRI"
    ):
        Fit(16, 64).fit(15, None, "input 3")
    with pytest.raises(BertJaxError, match="input 1 is 33 tokens long .* not pairs: give --truncate"):
        Fit(16, 64, stride=4).fit(15, 15, "input 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 64), "max_length is 2: expected 3 to 64"),
        ((65, 64), "max_length is 65"),
        ((16, 64, False, 15), "window is 15: expected 1 to 14"),
        ((16, 64, False, 0), "window is 0"),
        ((16, 64, True, 4), "exclude each other"),
    ],
)
def test_bad_settings(arguments: tuple, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        Fit(*arguments)


def test_what_is_no_text_is_named() -> None:
    assert sides(["a", "b"], "x") == ("a", "b")
    with pytest.raises(BertJaxError, match=r"input 2 is '5' \(int\): expected a text, or a pair of texts"):
        sides(5, "input 2")
