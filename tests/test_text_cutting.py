"""What stays of a text or a pair that is too long."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import small_tokenizer

from bert_jax.text.cutting import cut_pair, cut_single


@pytest.mark.parametrize(
    ("a", "b", "room", "expected"),
    [(10, None, 6, (6, None)), (10, 3, 8, (5, 3)), (3, 10, 8, (3, 5)), (9, 8, 10, (5, 5)), (8, 8, 9, (4, 5))],
)
def test_pairs_lose_from_the_longer_side(a: int, b: int | None, room: int, expected: tuple) -> None:
    assert cut_pair(a, b, room) == expected


def test_pairs_are_cut_as_by_hugging_face(tmp_path: Path) -> None:
    """Every pair of lengths up to 12, at every room up to 20, by the library's own 'longest_first'."""
    tokenizers = pytest.importorskip("tokenizers")
    small_tokenizer().with_lines(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]).save(tmp_path)
    theirs = tokenizers.BertWordPieceTokenizer(str(tmp_path / "vocab.txt"))
    for room in range(20):
        theirs.enable_truncation(room + 3, strategy="longest_first")
        for a in range(13):
            for b in range(13):
                tokens = theirs.encode("a " * a, "b " * b).tokens
                assert cut_pair(a, b, room) == (tokens.count("a"), tokens.count("b")), (a, b, room)


@pytest.mark.parametrize(
    ("room", "head_tail", "expected"),
    [(6, False, "abcdef"), (6, True, "afghij"), (8, True, "abefghij"), (3, True, "hij"), (10, True, "abcdefghij")],
)
def test_singles_lose_from_the_end_or_the_middle(room: int, head_tail: bool, expected: str) -> None:
    assert "".join(cut_single("abcdefghij", room, head_tail)) == expected
