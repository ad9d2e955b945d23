"""The picture of senses: a PNG with every use in it, whole or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_models import small_bert

from bert_jax.errors import BertJaxError
from bert_jax.infer.loaded import Bert
from bert_jax.infer.senses_picture import SHOWN, draw, write_picture

SENTENCES = ["the cat sat", "a cat ran .", "it was the cat , tired cat", "the cat on the mat !"]


@pytest.fixture(scope="module")
def bert() -> Bert:
    pytest.importorskip("matplotlib")
    return small_bert()


def texts_of(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("labels", [None, ["x_y", "_b", "x_y", "$c$"]])
def test_it_holds_every_use_the_groups_and_the_static_embedding(bert: Bert, labels, tmp_path: Path) -> None:
    answer = bert.senses("cat", SENTENCES, labels)
    texts = texts_of(draw(answer))
    assert {"1", "2", "3", "4", "5"} <= set(texts)
    assert any("static embedding" in text for text in texts)
    assert any(text.endswith("the «cat» on the mat !") for text in texts)
    assert sum("«cat»" in text for text in texts) == 5
    for name in labels or ["group 1 (found, not given)", "group 2 (found, not given)"]:
        assert name in texts
    write_picture(iter([answer]), tmp_path / "cat.png")
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_hostile_characters_are_drawn(bert: Bert, tmp_path: Path) -> None:
    sentences = ["$\\frac{cat$ cat 银行 " + "长" * 30, "x" * 300 + " cat \x00 \n 🐈 \ue000", "a & <cat> _^{}"]
    write_picture(iter([bert.senses("cat", sentences)]), tmp_path / "cat.png")
    assert (tmp_path / "cat.png").stat().st_size > 10_000


def test_two_uses_and_many_can_be_drawn(bert: Bert) -> None:
    draw(bert.senses("cat", SENTENCES[:2]))
    texts = texts_of(draw(bert.senses("cat", SENTENCES * 10)))
    assert f"and {50 - SHOWN} more" in texts
    assert "50" in texts


def test_without_matplotlib_one_line_says_what_to_do(bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BertJaxError, match=r"cannot be drawn without matplotlib: pip install 'bert-jax\[plot\]'"):
        write_picture(iter([]), tmp_path / "cat.png")


def test_nothing_is_left_where_the_answer_fails(bert: Bert, tmp_path: Path) -> None:
    from bert_jax.infer.senses import senses

    with pytest.raises(BertJaxError, match="does not hold"):
        write_picture(senses(bert, ["the cat", "a dog"], "cat"), tmp_path / "cat.png")
    assert list(tmp_path.iterdir()) == []
