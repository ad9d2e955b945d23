"""Texts with spans: CLUENER's objects over many lines, generic lists, and spans that are not where they should be."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks.span_files import read_spans, read_tagged_spans

CLUENER = {"text": "台湾的彭小军和台湾", "label": {"address": {"台湾": [[0, 1], [7, 8]]}, "name": {"彭小军": [[3, 5]]}}}


def read(path: Path, content: str, **settings: object) -> list:
    file = path / "set.json"
    file.write_text(content, "utf-8")
    return list(read_spans(str(file), TaskData(**settings)))  # type: ignore[arg-type]


def test_cluener_over_lines_one_per_line_or_as_a_list(tmp_path: Path) -> None:
    spans = ((0, 2, "address"), (3, 6, "name"), (7, 9, "address"))
    pretty, flat = json.dumps(CLUENER, indent=2), json.dumps(CLUENER, ensure_ascii=False)
    for content in (f"{pretty}\n{pretty}", f"{flat}\n\n{flat}\n", f"[{pretty}, {flat}]"):
        found = read(tmp_path, content)
        assert [example.spans for example in found] == [spans, spans]
        assert [example.id for example in found] == ["1", "2"]
    assert read(tmp_path, f"{pretty}\n{pretty}")[1].place.endswith(f"line {pretty.count(chr(10)) + 2}")


def test_generic_spans_and_named_fields(tmp_path: Path) -> None:
    lines = [
        {"text": "a big dog", "spans": [[2, 9, "X"], [6, 9, "Y", "dog"], [2, 9, "X"]], "id": 7},
        {"text": "none", "spans": []},
        {"text": "not known"},
    ]
    found = read(tmp_path, "\n".join(map(json.dumps, lines)))
    assert [example.spans for example in found] == [((2, 9, "X"), (6, 9, "Y")), (), None]
    assert found[0].id == "7"
    (example,) = read(tmp_path, '{"body": "a dog", "marks": [[2, 5, "X"]]}', text="body", label="marks")
    assert example.spans == ((2, 5, "X"),)


def test_a_span_elsewhere_stops_after_counting_or_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {"text": "台湾的", "label": {"address": {"台湾": [[1, 2]]}}}
    outside = {"text": "台湾的", "spans": [[1, 4, "X"]]}
    content = "\n".join(map(json.dumps, (CLUENER, wrong, outside)))
    message = (
        r"set.json, line 2: the address '台湾' is not at characters 1 to 3: there is '湾的'; 2 of the 3 examples of "
        r".*set.json cannot be used: mend them, or leave them out with --data.on_error skip"
    )
    with pytest.raises(BertJaxError, match=message):
        read(tmp_path, content)
    with caplog.at_level(logging.WARNING, "bert_jax"):
        assert len(read(tmp_path, content, on_error="skip")) == 1
    assert "2 of the 3 examples" in caplog.text and "the first is" in caplog.text


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ('{"text": "a"}\n{"txt": "b"}', {}, r"line 2 has no text in its field 'text'; it has txt"),
        ('{"text": "a"}\n\n{"text": ', {}, r"line 3 is not JSON"),
        ('{"text": "a"}\n5', {}, r"line 2 holds '5': expected a JSON object"),
        ('{"text": "a", "spans": [[0, "1", "X"]]}', {}, r"line 1: spans are \[\[0, '1', 'X'\]\]: expected \[\[first"),
        ('{"text": "a", "spans": [[0, 1]]}', {}, r"line 1: spans are"),
        ('{"text": "a", "spans": [[0, true, "X"]]}', {}, r"line 1: spans are"),
        ('{"text": "a", "label": "X"}', {}, r"line 1: spans are"),
        ('{"text": "a", "label": {"X": [[0, 0]]}}', {}, r"line 1: spans are"),
        ('{"text": "a"}', {"label": "marks"}, r"line 1 has no field 'marks' \(data.label\); it has text"),
        ("", {}, "holds no texts"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: str, settings: dict, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        read(tmp_path, content, **settings)


def test_spans_as_tags(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "set.json"
    spans = [[0, 5, "X"], [2, 4, "Y"], [6, 8, "Y"], [14, 15, "Z"]]
    file.write_text(json.dumps({"text": "a b c iPhone4 d  e", "spans": spans}) + '\n{"text": "台湾 x"}')
    with caplog.at_level(logging.INFO, "bert_jax"):
        first, second = read_tagged_spans(str(file), TaskData())
    assert first.words == ("a", "b", "c", "iPhone4", "d", "e") and second.words == ("台", "湾", "x")
    assert first.tags == ("B-X", "I-X", "I-X", "B-Y", "B-Z", "O") and second.tags is None
    assert first.offsets is not None and first.offsets[3] == (6, 13)
    assert "1 spans begin or end inside a word and became all of it; 1 that overlap others" in caplog.text


def test_cluener_whole(data_dir: Path) -> None:
    folder = data_dir / "zh" / "cluener"
    sizes = {}
    for part in ("train", "dev", "test"):
        examples = list(read_spans(str(folder / f"{part}.json"), TaskData()))
        kinds = Counter(kind for example in examples for _, _, kind in example.spans or ())
        sizes[part] = (len(examples), kinds.total(), len(kinds))
    assert sizes == {"train": (10748, 23971, 10), "dev": (1343, 3072, 10), "test": (1345, 0, 0)}
    tagged = list(read_tagged_spans(str(folder / "dev.json"), TaskData()))
    assert sum(tag.startswith("B-") for example in tagged for tag in example.tags or ()) == 3071
