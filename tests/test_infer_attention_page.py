"""The page: hostile text stays text, numbers keep what the page says, and a real browser shows the real ones."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minilm import minilm_directory
from small_models import small_bert

from bert_jax.errors import BertJaxError
from bert_jax.infer import attention_page
from bert_jax.infer.attention import Attention
from bert_jax.infer.attention_page import (
    data_block,
    packed,
    page_parts,
    quantised_vectors,
    quantised_weights,
    write_page,
)
from bert_jax.infer.loaded import Bert, load

ANIMAL = "The animal didn't cross the street because it was too tired"
HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> ]]> & \u2028 \"' \ud800 $x$"


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


@pytest.fixture(scope="module")
def minilm() -> Bert:
    return load(minilm_directory())


def test_nothing_typed_ends_the_data() -> None:
    block = data_block({"text": HOSTILE}, "input")
    body = re.fullmatch(r'<script type="application/json" class="input">(.*)</script>\n', block, re.DOTALL)
    assert body is not None
    assert not set("<>&\u2028\ud800") & set(body[1])
    assert json.loads(body[1]) == {"text": HOSTILE.replace("\ud800", "?")}


def test_a_page_of_hostile_text_has_its_own_scripts_only(bert: Bert) -> None:
    typed = bert.attention([HOSTILE, (HOSTILE[:20], "rain")], vectors=True)
    piece = typed[1]._replace(tokens=["</script>"] * len(typed[1].tokens))  # a vocabulary may hold anything
    text = "".join(page_parts(HOSTILE, [typed[0], piece]))
    text.encode("utf-8")
    assert len(re.findall(r"<script", text)) == len(re.findall(r"</script>", text)) == 4  # two inputs, facts, code
    assert "alert(" not in re.sub(r'<script type="application/json".*?</script>', "", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


class Elements(html.parser.HTMLParser):
    """The elements of a page and their attributes; what stands in the blocks of data."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, tuple[Any, ...]]] = []
        self.data: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        if ("type", "application/json") in attrs:
            self.data.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and ("type", "application/json") in self.elements[-1][1]:
            self.data[-1] += data


MARKS = (
    "</script>",
    "<script>",
    "<img src=x onerror=alert(1)>",
    "<!--",
    "-->",
    "]]>",
    "&lt;",
    "\u2028",
    "\ud800",
    "<",
    '"',
)
TYPED = st.lists(
    st.one_of(st.sampled_from(MARKS), st.text(st.characters(exclude_categories=()), max_size=5)), max_size=6
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(typed=TYPED.map("".join), tokens=TYPED, model=TYPED.map("".join))
def test_whatever_is_typed_or_in_a_vocabulary_is_data(typed: str, tokens: list[str], model: str) -> None:
    count = len(tokens)
    weights = np.full((1, 1, count, count), 1 / max(count, 1), np.float32)
    found = Attention(typed, tokens, [0] * count, (0,), (0,), weights)
    plain = Elements("".join(page_parts("m", [found._replace(source="text", tokens=["t"] * count)])))
    page = Elements("".join(page_parts(model, [found])))
    assert page.elements == plain.elements
    facts = json.loads(page.data[1])
    assert facts["model"] == model.encode("utf-8", "replace").decode()
    assert json.loads(page.data[0])["tokens"] == [token.encode("utf-8", "replace").decode() for token in tokens]


def test_the_page_needs_no_network(bert: Bert) -> None:
    text = "".join(page_parts("m", [bert.attention("rain", vectors=True)]))
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.findall(r"<link|src=|@import|url\(", text)
    assert "default-src 'none'" in text


def test_rounding_is_what_the_page_says() -> None:
    random = np.random.default_rng(0)
    weights = random.dirichlet(np.ones(20), (2, 3, 20)).astype(np.float32)
    for bits in (8, 16):
        whole = quantised_weights(weights, bits)
        assert whole.itemsize == bits // 8
        assert np.abs(whole / (2**bits - 1) - weights).max() <= 0.501 / (2**bits - 1)
    vectors = random.normal(0, 3, (4, 5, 16)).astype(np.float32)
    vectors[0, 0] = 0
    numbers, scales = quantised_vectors(vectors)
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    assert (np.abs(numbers * scales[..., None] - vectors) <= 0.6 * largest / 32767).all()


def test_numbers_of_a_broken_model_are_not_shown_as_large(bert: Bert) -> None:
    numbers, scales = quantised_vectors(np.array([[np.nan, 1, np.inf]], np.float32))
    assert numbers.tolist() == [[0, 32767, 0]] and scales[0] > 0
    assert quantised_weights(np.array([np.nan, 1], np.float32), 8).tolist() == [0, 255]


def test_vectors_that_are_too_many_are_left_out(bert: Bert, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = bert.attention(["the cat", "the cat"], vectors=True)
    size = 3 * 2 * answers[0].vectors.query.size
    monkeypatch.setattr(attention_page, "VECTOR_BYTES", size + 1)
    blocks = [part for part in page_parts("m", answers) if 'class="input"' in part]
    assert ['"query":' in block for block in blocks] == [True, False]


def test_very_many_weights_take_one_byte_each(bert: Bert, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = bert.attention("the cat")
    assert packed(answer, None)["bits"] == 16
    monkeypatch.setattr(attention_page, "FINE_WEIGHT_BYTES", answer.weights.size)
    found = packed(answer, None)
    assert found["bits"] == 8 and len(base64.b64decode(found["weights"])) == answer.weights.size


def test_no_input_and_no_place_to_write(bert: Bert, tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="no input: give a text"):
        write_page(bert, [], tmp_path / "x.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(BertJaxError, match="cannot write"):
        write_page(bert, ["rain"], tmp_path / "file" / "x.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# In a real browser


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no chromium on this machine")


def show(page: Path, fragment: str = "", clicks: str = "", picture: Path | None = None) -> str:
    """The page's document after its scripts (and `clicks`, run after them); fails on any message to the console."""
    shown = page
    if clicks:
        shown = page.with_name(f"clicked_{page.name}")
        shown.write_text(page.read_text("utf-8").replace("</body>", f"<script>{clicks}</script></body>"), "utf-8")
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1400,900"]
    command.append("--dump-dom" if picture is None else f"--screenshot={picture}")
    command.append(f"file://{shown}{fragment}")
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.returncode == 0 and not console, console or done.stderr[-1000:]
    return done.stdout


def ranking(document: str) -> list[tuple[int, int, float]]:
    rows = re.findall(r"<span>layer (\d+) head (\d+)</span><span>([\d.]+)</span>", document)
    return [(int(layer), int(head), float(share)) for layer, head, share in rows]


def numbers_of(document: str, name: str) -> np.ndarray:
    box = re.search(rf'id="walk-{name}".*?</div>', document, re.DOTALL)
    assert box is not None
    return np.array([float(text) for text in re.findall(r"<span[^>]*>([-\d.]+)</span>", box[0])])


@pytest.fixture(scope="module")
def animal_page(minilm: Bert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "animal.html"
    write_page(minilm, [ANIMAL], page)
    assert page.stat().st_size < 2e6
    return page


@pytest.mark.ci
def test_the_head_that_knows_what_it_is_stands_first(minilm: Bert, animal_page: Path) -> None:
    """The person clicks "it" on the left and "animal" on the right."""
    clicks = """
        document.querySelector('#left .token[data-index="10"]').click();
        document.querySelector('#right .token[data-index="2"]').click();
        document.querySelector('#ranking button').click();
    """
    document = show(animal_page, clicks=clicks)
    rows = ranking(document)
    assert len(rows) == 72
    assert rows[0][:2] == (5, 11) and rows[0][2] == pytest.approx(0.6466, abs=1e-3)
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    seen = minilm.attention(ANIMAL)
    np.testing.assert_allclose(
        [row[2] for row in rows], [seen.weights[row[0], row[1], 10, 2] for row in rows], atol=1e-4
    )
    assert "“it”" in document and "“animal”" in document
    assert re.search(r'aria-pressed="true"[^>]*data-layer="5"|data-layer="5"[^>]*aria-pressed="true"', document)
    assert set(re.findall(r'<path [^>]*data-head="(\d+)"', document)) == {"11"}  # the click showed that head alone
    tokens = re.findall(r'<span class="piece" dir="auto">(.*?)</span>', document)
    assert tokens == seen.tokens * 2


@pytest.mark.ci
def test_the_panel_shows_the_models_numbers(minilm: Bert, animal_page: Path) -> None:
    document = show(animal_page, "#layer=5&heads=3,11&from=10&to=2")
    walk = minilm.attention(ANIMAL, vectors=True).vectors.walk(5, 11, 10)
    for name, expected in (
        ("q", walk.query),
        ("k", walk.keys[2]),
        ("qk", walk.query * walk.keys[2]),
        ("wv", walk.weighted[2]),
        ("context", walk.context),
    ):
        np.testing.assert_allclose(numbers_of(document, name), expected, atol=0.0051, err_msg=name)
    table = re.search(r'id="walk-scores".*?</table>', document, re.DOTALL)
    assert table is not None
    cells = re.findall(r">([-\d.]+)</td><td>([-\d.]+)</td><td[^>]*>([-\d.]+)</td>", table[0])
    found = np.array(cells, float)
    for column, expected in enumerate((walk.products, walk.scores, walk.weights)):
        np.testing.assert_allclose(found[:, column], expected, atol=0.002)
    length = float(np.linalg.norm(walk.output))
    shown = re.search(r"384 numbers of length ([\d.]+)", document)
    assert shown is not None and float(shown[1]) == pytest.approx(length, abs=0.002)
    assert set(re.findall(r'<path [^>]*data-head="(\d+)"', document)) == {"3", "11"}


@pytest.mark.ci
def test_the_heat_map_and_a_screenshot(animal_page: Path, tmp_path: Path) -> None:
    document = show(animal_page, "#layer=5&heads=11&from=10&to=2&view=heat")
    assert re.search(r'id="readout"[^>]*>layer 5, head 11: 10 “it” → 2 “animal”: 0.646\d<', document)
    assert document.count("<canvas") == 1
    for view in ("lines", "heat"):
        picture = tmp_path / f"{view}.png"
        show(animal_page, f"#layer=5&heads=11&from=10&to=2&view={view}", picture=picture)
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


@pytest.mark.ci
def test_hostile_text_and_fragments_in_a_browser(minilm: Bert, tmp_path: Path) -> None:
    page = tmp_path / "hostile.html"
    write_page(minilm, [HOSTILE, (ANIMAL, HOSTILE), ""], page)
    document = show(page, "#input=1&layer=99&heads=<b>,-1,5&from=1e9&to=x&view=<i>&least=7")
    assert 'data-ready="yes"' in document and "<img" not in document
    assert "&lt;/script&gt;" in document
    assert document.count('class="token first"') == 2 * 15
    assert set(re.findall(r'<path [^>]*data-head="(\d+)"', document)) == {"5"}
    assert show(page, "#input=2").count('class="token first"') == 2 * 2
    switched = """
        const select = document.getElementById('input');
        select.value = '1';
        select.dispatchEvent(new Event('change'));
    """
    assert show(page, clicks=switched).count('class="token second"') > 10


@pytest.mark.ci
def test_a_hundred_tokens_do_not_overlap(minilm: Bert, tmp_path: Path) -> None:
    page = tmp_path / "long.html"
    text = " ".join(["street", "animal", "tired", "because"] * 24 + ["unbelievablenesses"])
    count = len(minilm.attention(text, [0], [0]).tokens)
    assert count >= 100
    write_page(minilm, [text], page)
    measure = """
        const boxes = side => [...document.getElementById(side).children].map(node => node.getBoundingClientRect());
        const apart = side => boxes(side).every((box, at, all) => !at || box.top >= all[at - 1].bottom - 0.5);
        const wide = document.documentElement.scrollWidth <= innerWidth;
        const between = boxes('left')[5].right <= boxes('right')[5].left;
        document.body.dataset.measured = [boxes('left').length, apart('left'), apart('right'), wide, between].join();
    """
    assert f'data-measured="{count},true,true,true,true"' in show(page, clicks=measure)
