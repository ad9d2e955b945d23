"""What chance scores, and when the loop warns."""

from __future__ import annotations

import math

import pytest

from bert_jax.config_files import load_config
from bert_jax.train.chance import (
    chance_text,
    expected_first_loss,
    first_loss_warning,
    patience_steps,
    still_improving,
    stuck_warning,
)
from bert_jax.train.schedule import stretches


def test_an_untrained_model() -> None:
    assert expected_first_loss(30522, "mlm+nsp") == pytest.approx(11.0193, abs=1e-4)
    assert expected_first_loss(30522, "mlm") == pytest.approx(10.3262, abs=1e-4)
    assert first_loss_warning(11.2, 30522, "mlm+nsp") is None
    assert "is 13.000, an untrained model has ln V + ln 2 = 11.019" in (
        first_loss_warning(13.0, 30522, "mlm+nsp") or ""
    )
    assert "is not finite, an untrained model has ln V = " in (first_loss_warning(math.nan, 30522, "mlm") or "")
    assert "is not finite" in (first_loss_warning(None, 30522, "mlm") or "")


def test_stuck_is_no_better_than_guessing_by_frequency() -> None:
    assert stuck_warning(6.4, {"chance_mlm_loss": 6.5}, 300) is None
    assert "at step 300 mlm_loss is 6.600, no better" in (stuck_warning(6.6, {"chance_mlm_loss": 6.5}, 300) or "")
    assert stuck_warning(9.0, {}, 300) is None
    assert stuck_warning(None, {"chance_mlm_loss": 6.5}, 300) is None


def test_patience_is_three_warm_ups_and_a_tenth_of_the_run() -> None:
    assert patience_steps(1000, 10_000) == 3000
    assert patience_steps(100, 10_000) == 1000
    assert patience_steps(0, 10_000) == 1000
    assert patience_steps(400, 1000) == 1000  # a long warm-up is looked at when it is over


def test_short_runs_are_not_judged() -> None:
    assert patience_steps(10, 1000) == 500
    for steps in (1, 6, 20, 300, 499):
        assert patience_steps(steps // 10, steps) > steps


def test_a_run_that_still_improves() -> None:
    assert still_improving(8.0, 7.0)
    assert not still_improving(7.0, 6.95)  # within what two lines differ by anyway
    assert not still_improving(7.0, 7.1)
    assert not still_improving(None, 7.0)
    assert not still_improving(7.0, None)


def test_patience_is_of_the_first_schedule() -> None:
    """BERT-large under LAMB: three warm-ups of the first phase, which end before it does."""
    first = stretches(load_config("bert_large_lamb"))[0]
    assert patience_steps(first.warmup_steps, first.steps) == 3 * 2000 < 7038


def test_the_line_names_what_is_known() -> None:
    line = chance_text(
        {"chance_mlm_loss": 6.5, "chance_mlm_accuracy": 0.067, "chance_nsp_accuracy": 0.6}, 100, "mlm+nsp"
    )
    assert "near 5.298" in line
    assert "mlm_loss 6.500" in line
    assert "mlm_accuracy 0.0670" in line
    assert "nsp_accuracy 0.600" in line
    assert chance_text({"chance_nsp_accuracy": 0.6}, 100, "mlm") == "chance: before training the loss is near 4.605"
