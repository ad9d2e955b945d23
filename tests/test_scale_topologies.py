"""Spellings of groups of chips, and the table of what each chip can do."""

from __future__ import annotations

import pytest

from bert_jax.errors import UsageError
from bert_jax.scale.topologies import CHIPS, parse_topology


@pytest.mark.parametrize(
    ("text", "name", "chips"),
    [
        ("v5e:4x4", "v5e:4x4", 16),
        ("V5E:16x16", "v5e:16x16", 256),
        ("v5litepod-64", "v5e:8x8", 64),
        ("v5e-16", "v5e:4x4", 16),
        ("v6e-8", "v6e:2x4", 8),
        ("v4-32", "v4:2x2x4", 16),  # v4 and v5p are named by cores, two per chip
        ("v5p-8", "v5p:2x2x1", 4),
        ("v4:2x2", "v4:2x2x1", 4),
        ("v4:8x8x8", "v4:8x8x8", 512),
        ("h200:8", "h200:8", 8),
        ("a100", "a100:1", 1),
    ],
)
def test_spellings(text: str, name: str, chips: int) -> None:
    found = parse_topology(text)
    assert (found.name, found.chips) == (name, chips)


def test_a_chip_of_two_devices() -> None:
    assert parse_topology("tpu7x:2x2x1").devices == 8
    assert parse_topology("v4:2x2x1").devices == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v9:2x2", "no chip 'v9' is known.*v5e:4x4.*h200:8"),
        ("v5ee:2x2", "did you mean v5e"),
        ("v5e", "has no shape: give one such as v5e:4x4"),
        ("v5e:4x4x4", "give 2 sizes"),
        ("v5e:0x4", "give 2 sizes"),
        ("v4-12", "v4-8, v4-16.*two per chip"),
        ("v5e-5", "known are v5e-1, v5e-4"),
        ("h100:2x2", "GPUs are counted, such as h100:8"),
        ("h100:0", "GPUs are counted"),
        ("", "known are v4"),
        ("v5e:4x4 ; rm", "known are v4"),
    ],
)
def test_what_is_not_known_is_said_with_what_is(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_topology(text)


def test_every_chip_has_a_peak_and_plausible_rates() -> None:
    for name, chip in CHIPS.items():
        assert 1e14 < chip.peak < 3e15, name
        # operations per byte of memory: between tens and a thousand on every accelerator there is
        assert 50 < chip.peak / chip.hbm_bandwidth < 1000, name
        assert chip.link_bandwidth < chip.hbm_bandwidth, name
