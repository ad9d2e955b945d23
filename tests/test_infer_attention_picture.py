"""The picture: heat maps of what was asked for, one input, one clear line without matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_models import small_bert

from bert_jax.errors import BertJaxError
from bert_jax.infer import attention_picture
from bert_jax.infer.attention_picture import draw, write_picture
from bert_jax.infer.loaded import Bert


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


def test_the_figure_shows_the_weights_and_their_names(bert: Bert) -> None:
    figure_class = pytest.importorskip("matplotlib.figure").Figure
    seen = bert.attention("the cat sat")
    figure = draw(figure_class, seen)
    assert [axes.get_title() for axes in figure.axes] == ["layer 0, head 0", "layer 0, head 1"]
    for head, axes in enumerate(figure.axes):
        assert (axes.images[0].get_array() == seen.weights[0, head]).all()
        assert [label.get_text() for label in axes.get_yticklabels()] == seen.tokens
    many = seen._replace(weights=seen.weights.repeat(3, axis=1), heads=(0, 0, 0, 1, 1, 1))
    assert not draw(figure_class, many).axes[0].get_yticks().size


def test_a_png_is_written(bert: Bert, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_picture(bert, ["the cat ran"], tmp_path / "a.png", heads=[1])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_signs_of_formulas_are_plain_characters(bert: Bert, tmp_path: Path) -> None:
    figure_class = pytest.importorskip("matplotlib.figure").Figure
    seen = bert.attention("the cat")._replace(tokens=["$a$", "_^{", "\\", "[SEP]"])
    figure = draw(figure_class, seen)
    figure.savefig(tmp_path / "signs.png")
    assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())


def test_characters_that_the_font_lacks_are_said(bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    said: list[str] = []
    monkeypatch.setattr(attention_picture, "warn", said.append)
    monkeypatch.setattr(bert.tokenizer, "pieces", lambda ids: ["東"] * len(list(ids)))
    write_picture(bert, ["the cat"], tmp_path / "east.png", heads=[0])
    assert (tmp_path / "east.png").exists()
    assert said and "lacks some characters" in said[0]


def test_one_input(bert: Bert, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for texts, came in (([], "none"), (["a", "b"], "several")):
        with pytest.raises(BertJaxError, match=f"shows one input, and {came} came"):
            write_picture(bert, texts, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BertJaxError, match=r"needs matplotlib: pip install 'bert-jax\[plot\]'"):
        write_picture(bert, ["rain"], tmp_path / "x.png")
