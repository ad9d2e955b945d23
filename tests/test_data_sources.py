"""Every form of SOURCE, its units, its fingerprint and its errors."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
from pathlib import Path

import pytest

from bert_jax.data import sources
from bert_jax.data.sources import open_source, open_sources, read_unit, split_field
from bert_jax.errors import BertJaxError

TWO = "One line.\nAnother line.\n\nThe second document.\n"
TWO_DOCUMENTS = [["One line.", "Another line."], ["The second document."]]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_plain_text_keeps_one_sentence_per_line(data_dir: Path) -> None:
    documents = list(open_source(str(data_dir / "corpus" / "sample_text.txt")))
    lines = (data_dir / "corpus" / "sample_text.txt").read_text("utf-8").split("\n")
    assert [sentence for document in documents for sentence in document] == [line for line in lines if line.strip()]
    assert len(documents) == 3


def test_news_zh_is_one_sentence_per_line(data_dir: Path) -> None:
    source = open_source(data_dir / "corpus" / "news_zh_1.txt")
    assert [unit.layout for unit in source.units()] == ["sentences"]
    assert len(list(source)) == 10


def test_lines_of_several_sentences_are_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "He came. She saw. They won.\nHeading\nIt was so. Really so.\n\nA b. C d.\n")
    expected = [["He came.", "She saw.", "They won.", "Heading", "It was so.", "Really so."], ["A b.", "C d."]]
    assert list(open_source(path)) == expected


def test_wikiextractor(data_dir: Path) -> None:
    source = open_source(data_dir / "corpus" / "enwiki" / "AA_wiki_02.txt")
    documents = list(source)
    text = (data_dir / "corpus" / "enwiki" / "AA_wiki_02.txt").read_text("utf-8")
    assert source.units()[0].kind == "wiki"
    assert 0 < len(documents) <= text.count("<doc ")
    assert documents[0][0].startswith("Albert Einstein (; ]; 14 March 1879")  # the title line is gone
    assert not any("<doc " in sentence or "</doc>" in sentence for document in documents for sentence in document)


def test_wikiextractor_titles_entities_tags_and_empty_elements(tmp_path: Path) -> None:
    path = write(
        tmp_path / "wiki_00",
        '<doc id="1" url="u" title="A &amp; B">\nA &amp; B\n\nFirst &lt;x&gt;.<br> Second.\n</doc>\n'
        '<doc id="2" url="u" title="Empty">\nEmpty\n\n \n</doc>\n'
        '<doc id="3" url="u" title="C">\nNot the title.\nC\n</doc>\n',
    )
    assert list(open_source(path)) == [["First <x>.", "Second."], ["Not the title.", "C"]]


def test_wikiextractor_json(tmp_path: Path) -> None:
    records = [{"id": "1", "title": "T", "text": "T\n\nBody here. More.\n"}, {"id": "2", "title": "U", "text": ""}]
    path = write(tmp_path / "wiki_00", "\n".join(map(json.dumps, records)) + "\n")
    assert list(open_source(path)) == [["Body here.", "More."]]


def test_json_fields(tmp_path: Path) -> None:
    records = [
        {
            "text": "x",
            "a": {"b": "Deep. Text."},
            "title": "T",
            "body": "B one. B two.",
            "s": ["one  sentence. or", "two"],
        },
        {"text": "y", "a": {"b": None}, "title": "U", "body": "B.", "s": []},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)) + "\n\n")
    assert list(open_source(str(path))) == [["x"], ["y"]]
    assert list(open_source(f"{path}:a.b")) == [["Deep.", "Text."]]
    assert list(open_source(f"{path}:title+body")) == [["T", "B one.", "B two."], ["U", "B."]]
    assert list(open_source(f"{path}:s")) == [["one sentence. or", "two"]]
    with pytest.raises(BertJaxError, match=r"a\.jsonl, line 1: no field 'nope'; it has a, body, s, text, title"):
        list(open_source(f"{path}:nope"))
    write(path, '{"text": "ok"}\n\n{"text": 3}\n')
    with pytest.raises(BertJaxError, match="line 3: text is int, expected a text or a list of sentences"):
        list(open_source(path))
    write(path, '{"text": "ok"}\n{"text": \n')
    with pytest.raises(BertJaxError, match="line 2: not a JSON line"):
        list(open_source(path))


def test_json_half_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a \\ud83d\\ude00 b \\ud800 c"}\n')
    assert list(open_source(path)) == [["a 😀 b � c"]]


def test_a_field_is_what_follows_the_last_colon(tmp_path: Path) -> None:
    assert split_field("a/b.jsonl:x.y") == ("a/b.jsonl", "x.y")
    assert split_field("C:/a/b.txt") == ("C:/a/b.txt", None)
    assert split_field("b.txt") == ("b.txt", None)
    odd = write(tmp_path / "a:b.txt", TWO)
    assert list(open_source(str(odd))) == TWO_DOCUMENTS
    plain = write(tmp_path / "a.txt", TWO)
    with pytest.raises(BertJaxError, match="plain text has no fields"):
        list(open_source(f"{plain}:text"))


def test_compressed_files(tmp_path: Path) -> None:
    import zstandard

    content = TWO.encode()
    packed = {
        "a.txt.gz": gzip.compress(content[:20]) + gzip.compress(content[20:]),  # several members are one stream
        "b.txt.bz2": bz2.compress(content),
        "c.txt.xz": lzma.compress(content),
        "d.txt.zst": zstandard.compress(content[:9]) + zstandard.compress(content[9:]),
        "e.jsonl.gz": gzip.compress(b'{"text": "One line.\\nAnother line."}\n["The second document."]\n'),
        "f": gzip.compress(content),  # recognised by content, not by name
    }
    for name, data in packed.items():
        source = open_source(write(tmp_path / name, data))
        assert list(source) == TWO_DOCUMENTS, name
        assert len(source.units()) == 1


@pytest.mark.parametrize("name", ["gz", "bz2", "xz", "zst"])
def test_a_truncated_compressed_file_is_named(tmp_path: Path, name: str) -> None:
    import random

    import zstandard

    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress}[name]
    noise = random.Random(0)
    lines = "\n".join("".join(noise.choices("abcdefgh ", k=60)) for _ in range(6000))
    path = write(tmp_path / f"a.txt.{name}", pack(lines.encode())[:-1000])
    with pytest.raises(BertJaxError, match=rf"a\.txt\.{name} is damaged or cut short"):
        list(open_source(path))


def test_directories_and_globs_are_sorted_and_recognised_per_file(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.txt", "Plain b1.\n")
    write(tmp_path / "a.jsonl", '{"text": "Json a."}\n')
    write(tmp_path / "b" / "0.gz", gzip.compress(b"Packed b0.\n"))
    write(tmp_path / "c_00", '<doc id="1" url="" title="T">\nT\n\nWiki c.\n</doc>\n')
    write(tmp_path / "empty.txt", "\n \n")
    write(tmp_path / ".hidden", "Hidden.\n")
    assert list(open_source(tmp_path)) == [["Json a."], ["Packed b0."], ["Plain b1."], ["Wiki c."]]
    assert list(open_source(f"{tmp_path}/b/*.txt")) == [["Plain b1."]]
    assert list(open_source(f"{tmp_path}/**/*.gz")) == [["Packed b0."]]
    assert len(list(open_sources([f"{tmp_path}/b", str(tmp_path / "a.jsonl"), ["More."]]))) == 4


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"text": f"Row {i}. It ends.", "title": f"T{i}", "a": {"b": f"Deep {i}."}, "s": ["x. y", f"{i}"]}
        for i in range(10)
    ]
    rows[3]["text"] = None
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    source = open_source(f"{path}:text", unit_bytes=50)
    assert len(source.units()) == 4
    assert list(source) == [[f"Row {i}.", "It ends."] for i in range(10) if i != 3]
    assert len(open_source(f"{path}:text").units()) == 1
    assert list(open_source(f"{path}:a.b"))[7] == ["Deep 7."]
    assert next(iter(open_source(f"{path}:title+text"))) == ["T0", "Row 0.", "It ends."]
    assert list(open_source(f"{path}:s"))[1] == ["x. y", "1"]
    with pytest.raises(BertJaxError, match=r"a\.parquet: no field 'nope'; it has text, title, a, s"):
        list(open_source(f"{path}:nope"))
    write(tmp_path / "cut.parquet", path.read_bytes()[:-100])
    with pytest.raises(BertJaxError, match="is no whole parquet file"):
        list(open_source(tmp_path / "cut.parquet"))


def test_stdin_is_spooled(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b'{"text": "One. Two."}\n"Three."\n["four. five"]\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    source = open_source("-")
    spool = Path(source.units()[0].path)
    assert list(source) == list(source) == [["One.", "Two."], ["Three."], ["four. five"]]
    del source
    assert not spool.exists()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"no json\n")))
    with pytest.raises(BertJaxError, match="<stdin>, line 1: not a JSON line"):
        list(open_source("-"))


def test_iterables() -> None:
    source = open_source(document for document in ("One. Two.\nThree", ["a b. c", "d"]))
    assert list(source) == list(source) == [["One.", "Two.", "Three"], ["a b. c", "d"]]
    assert source.fingerprint() == open_source(["One. Two.\nThree", ["a b. c", "d"]]).fingerprint()
    with pytest.raises(BertJaxError, match="document 1: int, expected a string or a list of sentences"):
        open_source(["x", 3])  # type: ignore[list-item]
    with pytest.raises(BertJaxError, match="name or an iterable of documents, not int"):
        open_source(3)  # type: ignore[arg-type]
    with pytest.raises(BertJaxError, match="is the name of a file"):
        open_source([__file__])


def test_stdlib_has_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("stdlib")
    documents = list(source)
    size = sum(len(sentence) + 1 for document in documents for sentence in document)
    assert 1.7e6 < size < 3e6
    assert len(documents) > 400
    assert len(source.units()) > 1
    sentences = {sentence for document in documents for sentence in document}
    assert "Assert statements are a convenient way to insert debugging assertions into a program:" in sentences
    assert "Shuffle list x in place, and return None." in sentences


@pytest.mark.parametrize("unit_bytes", [40, 100, 333, 10_000])
@pytest.mark.parametrize("form", ["text", "wiki", "json"])
def test_documents_do_not_depend_on_where_files_are_cut(tmp_path: Path, unit_bytes: int, form: str) -> None:
    texts = [f"Document {i} begins. It goes on é 中文.\nSome {'x' * (i * 7 % 50)} words. And more." for i in range(60)]
    content = {
        "text": "".join(text + ("\n\n", "\n \t\n", "\n\r\n\n")[i % 3] for i, text in enumerate(texts)),
        "wiki": "".join(f'<doc id="{i}" url="" title="T{i}">\nT{i}\n\n{t}\n</doc>\n' for i, t in enumerate(texts)),
        "json": "".join(json.dumps({"text": text}) + "\n" for text in texts),
    }[form]
    path = write(tmp_path / "a", content)
    source = open_source(path, unit_bytes=unit_bytes)
    units = source.units()
    assert (len(units) > 1) == (unit_bytes < 10_000)
    assert [unit.end for unit in units[:-1]] == [unit.start for unit in units[1:]]
    documents = [document for unit in pickle.loads(pickle.dumps(units)) for document in read_unit(unit)]
    assert documents == list(open_source(path))
    assert len(documents) == 60


def test_a_huge_document_of_lines_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_jax.data.streams.DOCUMENT_LIMIT", 100)
    monkeypatch.setattr("bert_jax.data.documents.DOCUMENT_LIMIT", 100)
    lines = [f"sentence number {i}" for i in range(50)]
    documents = list(open_source(write(tmp_path / "a.txt", "\n".join(lines)), unit_bytes=300))
    assert [sentence for document in documents for sentence in document] == lines
    assert 5 < len(documents) < 20


def test_fingerprint_tells_contents_and_names(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.txt", TWO)
    write(tmp_path / "y" / "a.txt", TWO)
    write(tmp_path / "z" / "b.txt", TWO)
    one, two, three = (open_source(tmp_path / name).fingerprint() for name in "xyz")
    assert one == two != three
    write(tmp_path / "y" / "a.txt", TWO.replace("O", "o"))
    assert open_source(tmp_path / "y").fingerprint() != one
    assert open_source(tmp_path / "x", encoding_errors="replace").fingerprint() != one


def test_large_files_are_digested_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "WHOLE_BYTES", 3 << 20)
    content = bytes(range(256)) * (20 << 12)
    path = write(tmp_path / "a", content)
    before = sources.content_digest(str(path))
    assert before == sources.content_digest(str(path))
    write(path, content[:-1] + b"x")
    assert sources.content_digest(str(path)) != before


def test_not_utf8_names_file_and_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfabc\n\nd\xff e\n")
    with pytest.raises(BertJaxError, match=r"a\.txt is not UTF-8 at byte 9: "):
        list(open_source(path))
    assert list(open_source(path, encoding_errors="replace")) == [["abc"], ["d� e"]]
    packed = write(tmp_path / "b.gz", gzip.compress(b"ab\n\xff\n"))
    with pytest.raises(BertJaxError, match=r"b\.gz is not UTF-8 at decompressed byte 3: "):
        list(open_source(packed))
    wide = write(tmp_path / "c.txt", "wide".encode("utf-16"))
    with pytest.raises(BertJaxError, match="looks like UTF-16"):
        list(open_source(wide))
    late = write(tmp_path / "d.txt", b"x y z\n\n" * 400_000 + b"\xff\n")  # beyond what recognition reads
    with pytest.raises(BertJaxError, match="not UTF-8 at byte 2800000"):
        list(open_source(late))


def test_a_giant_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_jax.data.streams.LINE_LIMIT", 1 << 20)
    path = write(tmp_path / "a.txt", b"first\nsecond\n" + b"word " * 300_000)
    with pytest.raises(BertJaxError, match=r"a\.txt, line 3: longer than 1 MiB"):
        list(open_source(path))


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(BertJaxError, match="no such file, directory or glob match"):
        open_source(tmp_path / "nope.txt")
    with pytest.raises(BertJaxError, match="copy it to a local path first"):
        open_source("gs://bucket/a.txt")
    with pytest.raises(BertJaxError, match="holds no text"):
        open_source(write(tmp_path / "a.txt", "\n  \n")).units()
    with pytest.raises(BertJaxError, match="holds no text"):
        open_source([]).units()
    (tmp_path / "d").mkdir()
    with pytest.raises(BertJaxError, match="the directory holds no files"):
        open_source(tmp_path / "d")
    with pytest.raises(BertJaxError, match="no source was given"):
        open_sources([])
    with pytest.raises(BertJaxError, match="encoding_errors is 'ignore'"):
        open_source("stdlib", encoding_errors="ignore")  # type: ignore[arg-type]


def test_a_wiki_element_that_never_ends_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_jax.data.documents.DOCUMENT_LIMIT", 40)
    path = tmp_path / "wiki_00"
    path.write_text('<doc id="1" title="T">\nT\n' + "A line of the text here.\n" * 6)
    documents = list(open_source(path))
    assert [len(document) for document in documents] == [2, 2, 2]
