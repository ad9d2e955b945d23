"""Input from anywhere: any bytes give a value or one of our errors, in bounded time, and nothing is written outside.

`tests/chaos/fuzz.py` does the same for longer, with real files that are damaged.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import json
import lzma
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import TEXTS, check_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import HEADS, WORDS, small_config, small_parameters, small_run, small_tokenizer

from bert_jax import files
from bert_jax.bert_config import BertConfig
from bert_jax.console import logger
from bert_jax.data.sources import open_source
from bert_jax.data.stdlib import _docstrings
from bert_jax.data.store import load_store, write_store
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.formats import tf1
from bert_jax.formats.hugging_face import write_model_directory
from bert_jax.formats.model import load_model, open_model
from bert_jax.infer.verbs import inputs_of_file
from bert_jax.tasks.table import find_task
from bert_jax.text.tokenizer import (
    SPECIAL_PIECES,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    WordsTokenizer,
    load_tokenizer,
)
from bert_jax.train.metrics import MetricsWriter, read_metrics
from bert_jax.train.run import open_run
from bert_jax.train.saved_steps import step_directories

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def said_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of the log quote what was read, halves of characters too, which a report could not be sent with."""
    monkeypatch.setattr(logger, "disabled", True)


def hostile(examples: int) -> settings:
    """The same examples every time, as many as the time of one run allows."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def answer(read: Callable[[], Any]) -> Any:
    """What was read, or None for an error of ours; any other exception is the test's failure."""
    try:
        value = read()
        return list(value) if isinstance(value, Iterator) else value
    except BertJaxError:
        return None


# Numbers that Python refuses, or that are none; signs, halves of characters, marks and ends of lines.
ODD = (
    *(
        "\0",
        "\ud800",
        "\u2028",
        "\x85",
        "\ufeff",
        "\r",
        "\n",
        "\n\n",
        "\t",
        '"',
        "'",
        ",",
        "{",
        "[",
        "}",
        "</doc>",
        " ",
    ),
    *(
        "--5",
        "-1",
        "1e999",
        "NaN",
        "9" * 5000,
        "٣",
        "²",
        "<e1>",
        "</e1>",
        "<e2>",
        "</e2>",
        "&#" + "9" * 5000 + ";",
        "&lt;",
    ),
    *("<doc title='a'>", "O", "B-", "I-X", "B-X", "##", "[MASK]", "\\", "word", "../", "-DOCSTART-", "[" * 2000, "🙂"),
)
CHARACTERS = st.characters(exclude_categories=())
TEXT = st.lists(st.one_of(st.sampled_from(ODD), st.text(CHARACTERS, max_size=8)), max_size=12).map("".join)
BYTES = st.one_of(st.binary(max_size=200), TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**31, 2**63, 10**12, 10**300, 10**4000, -(10**20)]))
LEAVES = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.sampled_from([*ODD, "the cat sat"]), st.text(CHARACTERS, max_size=5)
)


def objects(*names: str) -> st.SearchStrategy[Any]:
    """JSON values in which the fields that a reader looks for are likely, with any value."""
    keys = st.one_of(st.sampled_from(names), st.sampled_from(ODD[:8]))
    inner = st.recursive(
        LEAVES,
        lambda parts: st.one_of(st.lists(parts, max_size=4), st.dictionaries(keys, parts, max_size=4)),
        max_leaves=12,
    )
    return st.one_of(st.dictionaries(keys, inner, max_size=6), inner)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


# --- nothing is run ---------------------------------------------------------------------------------------------------

MODULES = ("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "yaml", "imp")
CALLS = ("eval", "exec", "compile", "__import__", "execfile")
METHODS = ("exec_module", "read_pickle", "run_path", "run_module", "unsafe_load", "full_load")
LOADS = ("torch.load", "jnp.load", "joblib.load", "yaml.load")
ALLOWED = {
    # A CONFIG is Python that its user wrote, as documented: it is run.
    ("config_files.py", "runpy"),
    ("config_files.py", "run_path"),
    # Between a process and the children that it started itself, over their pipes; no file and no network.
    ("data/pool.py", "pickle"),
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression that is one, else its last name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_nothing_reads_pickles_or_runs_what_it_reads() -> None:
    found = set()
    for path in sorted((REPOSITORY / "bert_jax").rglob("*.py")):
        name = path.relative_to(REPOSITORY / "bert_jax").as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(name, item.name) for item in node.names if item.name.split(".")[0] in MODULES}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
                found.add((name, node.module))
            elif isinstance(node, ast.Call):
                called = dotted(node.func)
                if called in CALLS or called in LOADS or called.rsplit(".", 1)[-1] in METHODS:
                    found.add((name, called.rsplit(".", 1)[-1]))
                if any(item.arg == "allow_pickle" and ast.unparse(item.value) != "False" for item in node.keywords):
                    found.add((name, "allow_pickle"))
                if called == "np.load" and len(node.args) > 2:  # the third is allow_pickle
                    found.add((name, "allow_pickle"))
    assert found == ALLOWED


# --- sources ----------------------------------------------------------------------------------------------------------

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def documents(path: Path, errors: Any = "strict") -> Any:
    found = answer(lambda: iter(open_source(path, encoding_errors=errors, unit_bytes=64)))
    for document in found or ():
        assert document and all(isinstance(text, str) and text.strip() for text in document)
        "\n".join(document).encode()  # whole characters, which a store can hold
    return found


@hostile(120)
@given(content=BYTES, suffix=st.sampled_from([".txt", ".jsonl", "_wiki"]), packer=st.sampled_from([*PACKERS]))
def test_any_bytes_as_a_source(tmp_path: Path, content: bytes, suffix: str, packer: str) -> None:
    path = tmp_path / f"source{suffix}{packer}"
    path.write_bytes(PACKERS[packer](b"<doc a>\n" * (suffix == "_wiki") + content))
    documents(path)
    documents(path, "replace")


@hostile(80)
@given(head=st.sampled_from([b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PAR1"]), rest=BYTES)
def test_any_bytes_behind_the_mark_of_a_format(tmp_path: Path, head: bytes, rest: bytes) -> None:
    path = tmp_path / "source.txt"
    path.write_bytes(head + rest)
    assert documents(path) is None


@hostile(50)
@given(
    values=st.lists(objects("text", "title", "a", "b"), max_size=4), field=st.sampled_from([None, "text", "a.b", "a+b"])
)
def test_any_json_as_a_source(tmp_path: Path, values: list[Any], field: str | None) -> None:
    path = tmp_path / "source.jsonl"
    path.write_bytes(b"\n".join(map(dumped, values)))
    answer(lambda: iter(open_source(str(path) if field is None else f"{path}:{field}")))


def test_numbers_of_thousands_of_digits_in_a_source(tmp_path: Path) -> None:
    path = tmp_path / "wiki"
    path.write_text(f'<doc title="&#{"9" * 5000};">\nIt cost &#{"9" * 5000}; &amp; more.\n</doc>\n')
    assert documents(path) == [["It cost \ufffd & more."]]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "a", "n": ' + "9" * 5000 + "}\n")
    with pytest.raises(BertJaxError, match=r"a\.jsonl, line 1: not a JSON line: a number has more than 4,300 digits"):
        list(open_source(lines))
    lines.write_text("[" * 100_000)
    with pytest.raises(BertJaxError, match=r"line 1: not a JSON line: .* more than 100 deep"):
        list(open_source(lines))


def test_what_unpacks_to_much_is_read_in_pieces(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.zst"  # 1 GiB of one letter: 32 KiB
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    path.write_bytes(b"".join([*(packer.compress(b"a" * (1 << 24)) for _ in range(64)), packer.flush()]))
    code = (
        "import resource, sys\n"
        "from bert_jax.data.sources import open_source\n"
        "from bert_jax.errors import BertJaxError\n"
        "import zstandard\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (400 << 20,) * 2)\n"
        "try:\n    list(open_source(sys.argv[1]))\nexcept BertJaxError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert "line 1: longer than 16 MiB" in done.stdout, done.stderr[-2000:]


def test_a_dictionary_that_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(b"text\n"))

    def refuse(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("lzma.LZMAFile.read", refuse)
    monkeypatch.setattr("lzma.LZMAFile.readinto", refuse, raising=False)
    with pytest.raises(BertJaxError, match="takes more memory to decompress than there is"):
        list(open_source(path))


def test_a_module_nested_beyond_reason_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "deep.py"
    path.write_text("x = " + "-" * 50_000 + "1\n")
    assert _docstrings(str(path)) == []


# --- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizers(data_dir: Path) -> dict[str, Tokenizer]:
    lines = (data_dir / "vocab" / "bert_base_uncased.txt").read_text("utf-8").split("\n")[:1500]
    cased = (data_dir / "vocab" / "bert_base_cased.txt").read_text("utf-8").split("\n")[:1500]
    model = (data_dir / "sentencepiece" / "albert_30k_clean.model").read_bytes()
    return {
        "uncased": WordPieceTokenizer(lines, cased=False),
        "cased": WordPieceTokenizer(cased, cased=True),
        "words": WordsTokenizer([*SPECIAL_PIECES.values(), *WORDS]),
        "sentencepiece": SentencePieceTokenizer(model, cased=False),
        "sentencepiece, accents kept": SentencePieceTokenizer(model, cased=True, keep_accents=True),
    }


NAMES = ("uncased", "cased", "words", "sentencepiece", "sentencepiece, accents kept")


@pytest.mark.parametrize("name", NAMES)
def test_every_tokenizer_decodes_every_id(tokenizers: dict[str, Tokenizer], name: str) -> None:
    check_tokenizer(tokenizers[name], TEXTS)


@pytest.mark.parametrize("name", NAMES)
@hostile(60)
@given(text=st.one_of(TEXT, st.text(CHARACTERS, max_size=30)))
def test_ids_and_offsets_agree_on_any_text(tokenizers: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = tokenizers[name]
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids.tolist() == tokenizer.ids(text)
    assert ((offsets >= 0) & (offsets <= len(text))).all() and (offsets[:, 0] <= offsets[:, 1]).all()
    assert (offsets[1:] >= offsets[:-1]).all()
    tokenizer.decode(ids), tokenizer.ids_with_specials(text)


FIELDS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "tokenizer_class", "unk_token", "mask_token")
OTHERS = ("content", "id", "added_tokens_decoder", "added_tokens", "model", "vocab", "normalizer", "type", "5", "29")


@hostile(70)
@given(
    lines=st.lists(TEXT, max_size=4),
    config=st.one_of(st.none(), objects(*FIELDS, *OTHERS).map(dumped), BYTES),
    added=st.one_of(st.none(), objects("zebra", "[PAD]", "cat").map(dumped)),
    whole=st.one_of(st.none(), objects(*OTHERS, "lowercase", "WordPiece", "BertNormalizer").map(dumped)),
)
def test_any_tokenizer_directory(
    tmp_path: Path, lines: list[str], config: bytes | None, added: bytes | None, whole: bytes | None
) -> None:
    text = "\n".join([*SPECIAL_PIECES.values(), *lines])
    (tmp_path / "vocab.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    contents = {"tokenizer_config.json": config, "added_tokens.json": added, "tokenizer.json": whole}
    for name, content in contents.items():
        (tmp_path / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / name).write_bytes(content)
    tokenizer = answer(lambda: load_tokenizer(tmp_path))
    if tokenizer is not None:
        check_tokenizer(tokenizer, TEXTS[2:4])


@hostile(40)
@given(content=BYTES)
def test_any_bytes_as_a_sentencepiece_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    assert answer(lambda: load_tokenizer(tmp_path)) is None


@pytest.mark.parametrize("number", ["[5]", '{"a": 1}', "5.5", "true", "null", '"5"', "9" * 5000])
def test_an_added_token_with_a_number_that_is_none(tmp_path: Path, number: str) -> None:
    small_tokenizer().save(tmp_path)
    (tmp_path / "added_tokens.json").write_text(f'{{"zebra": {number}}}')
    with pytest.raises(BertJaxError, match=r"added_tokens\.json"):
        load_tokenizer(tmp_path)


# --- examples ---------------------------------------------------------------------------------------------------------

CELLS = st.one_of(st.sampled_from([*ODD, "0", "1", "the cat"]), st.text(CHARACTERS, max_size=6))
TASKS = {
    "sst2": ".tsv",
    "cola": ".tsv",
    "mrpc": ".txt",
    "stsb": ".tsv",
    "classification": ".csv",
    "regression": ".csv",
    "ner": ".conll",
    "relation": ".tsv",
    "semeval": ".txt",
    "swag": ".csv",
    "codah": ".tsv",
    "multi_label": ".tsv",
}


def examples(task: str, path: Path) -> None:
    for on_error in ("stop", "skip"):
        answer(lambda on_error=on_error: iter(find_task(task).read(str(path), TaskData(on_error=on_error))))


@hostile(150)
@given(
    task=st.sampled_from([*TASKS]),
    rows=st.one_of(BYTES, st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=4)),
)
def test_any_bytes_and_any_table_as_examples(tmp_path: Path, task: str, rows: bytes | list[list[str]]) -> None:
    heads = {"swag": "sent1,ending0,ending1,label", "classification": "text,label", "regression": "text,label"}
    if isinstance(rows, list):
        mark = "," if TASKS[task] == ".csv" else "\t"
        lines = [*([heads[task]] if task in heads else []), *(mark.join(row) for row in rows)]
        rows = "\n".join(lines).encode("utf-8", "surrogatepass")
    path = tmp_path / f"examples{TASKS[task]}"
    path.write_bytes(rows)
    examples(task, path)


JSON_TASKS: dict[str, tuple[str, ...]] = {
    "squad2": ("data", "paragraphs", "qas", "context", "question", "id", "answers", "text", "answer_start"),
    "cmrc": ("context_text", "qas", "query_text", "query_id", "answers"),
    "ner": ("words", "tags", "document", "tokens"),
    "spans": ("text", "spans", "label", "name"),
    "span_tagging": ("text", "spans", "label", "name"),
    "relation": ("text", "first", "second", "label"),
    "swag": ("context", "choices", "question", "label", "sent1"),
    "multi_label": ("text", "labels"),
    "similarity": ("a", "b", "score"),
    "sst2": ("sentence", "label"),
}


@hostile(80)
@given(data=st.data(), task=st.sampled_from([*JSON_TASKS]))
def test_any_json_as_examples(tmp_path: Path, data: st.DataObject, task: str) -> None:
    values = data.draw(st.lists(objects(*JSON_TASKS[task]), max_size=3))
    path = tmp_path / "examples.json"
    path.write_bytes(dumped(values[0]) if task in ("squad2", "cmrc") and values else b"\n".join(map(dumped, values)))
    examples(task, path)


@hostile(60)
@given(
    value=objects("text", "a", "b", "label"), task=st.sampled_from(["embed", "classify", "answer", "choose", "senses"])
)
def test_any_json_as_inputs_of_predict(tmp_path: Path, value: Any, task: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(dumped(value))
    answer(lambda: inputs_of_file(str(tmp_path / "in.jsonl"), task))


@pytest.mark.parametrize("label", ["--5", "9" * 5000, "²", "-", "1_0", "0x1"])
@pytest.mark.parametrize(("task", "line"), [("sst2", "a text\t{}"), ("codah", "c\tprompt\ta\tb\tc\td\t{}")])
def test_a_label_that_looks_like_a_number(tmp_path: Path, task: str, line: str, label: str) -> None:
    path = tmp_path / "examples.tsv"
    path.write_text(line.format(label) + "\n")
    with pytest.raises(BertJaxError, match="label"):
        list(find_task(task).read(str(path), TaskData()))


# Most of them took the square of their length once, and minutes.
LONG = {
    "blanks": " " * 100_000,
    "digits, then a letter": "9" * 100_000 + "a",
    "tags": "<br " * 10_000,
    "ends": "." * 30_000,
    "special pieces": "[MASK]" * 20_000,
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_of_one_kind_take_time_by_their_length(tmp_path: Path, name: str) -> None:
    began = time.monotonic()
    text, tokenizer = f"a{LONG[name]}b", small_tokenizer()
    for path, content in {"a.txt": text, "a_wiki": f"<doc title='a'>\n{text}\n</doc>"}.items():
        (tmp_path / path).write_text(content)
        documents(tmp_path / path)
    lines = {"relation": f"of\t<e1>a</e1> {text} <e2>b</e2>", "ner": f"{text} O", "sst2": f"{text}\t1"}
    for task, line in lines.items():
        (tmp_path / "a.tsv").write_text(line + "\n")
        examples(task, tmp_path / "a.tsv")
    tokenizer.ids(text), tokenizer.encode_with_offsets(text), tokenizer.ids_with_specials(text)
    assert time.monotonic() - began < 20


def test_the_blank_inside_of_a_tag_is_still_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("of\tA <e1> cat  </e1> of <e2> the house\u3000</e2>.\n")
    (example,) = find_task("relation").read(str(path), TaskData())
    assert example.text == "A cat of the house."
    assert (example.text[slice(*example.first)], example.text[slice(*example.second)]) == ("cat", "the house")


# --- configurations and models ----------------------------------------------------------------------------------------

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "extra",
)


@hostile(80)
@given(
    values=st.dictionaries(
        st.sampled_from([*SIZES, "pad_token_id", "model_type", "is_decoder"]), st.one_of(LEAVES, objects("a"))
    ),
    dialect=st.sampled_from([None, "google", "huggingface"]),
)
def test_any_configuration(tmp_path: Path, values: dict[str, Any], dialect: Any) -> None:
    (tmp_path / "config.json").write_bytes(dumped(values))
    config = answer(lambda: BertConfig.from_json_file(tmp_path / "config.json", dialect))
    if config is not None:
        hash(config), config.to_json_string(), repr(config)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_model_directory(folder, small_config(), small_parameters(), HEADS)
    small_tokenizer().save(folder)
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"])
def test_a_configuration_of_huge_sizes_is_not_built(model: Path, name: str) -> None:
    began = time.monotonic()
    for size in (2**31 - 2, 10**12, 10**4000):
        change(model / "config.json", **{name: size})
        with pytest.raises(BertJaxError):
            load_model(model)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("value", [{"a": 1}, 5, "BertModel", True, {"0": "BertModel"}])
def test_architectures_that_are_no_list(model: Path, value: Any) -> None:
    change(model / "config.json", architectures=value)
    with pytest.raises(BertJaxError, match="architectures is .* expected a list"):
        load_model(model)


HEADER_LIES: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "beyond the file": lambda header, name: header[name].update(data_offsets=[0, 2**62]),
    "beyond any number": lambda header, name: header[name].update(data_offsets=[0, 2**64]),
    "negative": lambda header, name: header[name].update(data_offsets=[-4, 4]),
    "end before its beginning": lambda header, name: header[name].update(data_offsets=[8, 4]),
    "overlapping": lambda header, name: header[name].update(data_offsets=[*header.values()][-1]["data_offsets"]),
    "huge shape": lambda header, name: header[name].update(shape=[2**40, 2**40]),
    "shape that overflows": lambda header, name: header[name].update(shape=[2**63, 4]),
    "no shape": lambda header, name: header[name].pop("shape"),
    "unknown dtype": lambda header, name: header[name].update(dtype="X"),
    "wider dtype": lambda header, name: header[name].update(dtype="F64"),
    "no object": lambda header, name: header.update({name: 5}),
}


def with_header(path: Path, header: bytes, length: int | None = None) -> None:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data[8 + size :])


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_headers_of_safetensors_that_lie(model: Path, lie: str) -> None:
    path = model / "model.safetensors"
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    HEADER_LIES[lie](header, next(name for name in header if name != "__metadata__"))
    with_header(path, json.dumps(header).encode())
    with pytest.raises(BertJaxError, match=r"model\.safetensors"):
        load_model(model)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1])
def test_lengths_of_headers_that_lie(model: Path, length: int) -> None:
    with_header(model / "model.safetensors", b"{}", length)
    with pytest.raises(BertJaxError, match=r"model\.safetensors cannot be read as safetensors"):
        load_model(model)


def test_a_head_of_no_shape(model: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(model / "model.safetensors")
    scalar = np.zeros((), np.float32)
    save_file({**arrays, "classifier.bias": scalar}, model / "model.safetensors")
    change(model / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.raises(BertJaxError, match=r"bias of its classification head has the shape \(\)"):
        load_model(model)


# --- names of files ---------------------------------------------------------------------------------------------------

OUTSIDE = ("../model.safetensors", "/etc/hostname", "a/../../b", "..", "")


@pytest.mark.parametrize("name", [*OUTSIDE, "x" * 5000, "é" * 200, "a\0b", 5, None, ["a"], {"a": {}}])
def test_parts_of_a_model_lie_in_its_directory(model: Path, name: Any) -> None:
    (model / "model.safetensors").rename(model.parent / "model.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"bert.pooler.dense.bias": name}}))
    with pytest.raises(
        BertJaxError, match=r"names the file .* expected names inside|lacks .* which model|cannot read .*index"
    ):
        load_model(model)


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../..", "x" * 5000, "é" * 200])
def test_modules_of_a_model_lie_in_its_directory(model: Path, path: str) -> None:
    (model / "modules.json").write_text(json.dumps([{"type": "x.Transformer", "path": path}]))
    with pytest.raises(BertJaxError):
        load_model(model)


def unpacked(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The zip in a temporary directory inside `folder`."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return tf1.Unpacked(path)


INDEX = "bert_model.ckpt.index"


def test_a_zip_that_leads_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    outside = [f"../../../outside/{INDEX}", f"/{tmp_path}/abs/{INDEX}", f"a/../../../{INDEX}", f"..\\..\\{INDEX}"]
    for name in outside:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
            link = zipfile.ZipInfo("link/vocab.txt")
            link.external_attr = 0o120777 << 16  # a symbolic link, to those who make such
            archive.writestr(link, "/etc/hostname")
        found = unpacked(path, tmp_path / "t", monkeypatch)
        assert found.folder.resolve().is_relative_to(tmp_path / "t")
        assert sorted(item.name for item in tmp_path.iterdir()) == ["a.zip", "t"]
        assert not any(item.is_symlink() for item in (tmp_path / "t").rglob("*"))
        del found


def test_a_zip_that_unpacks_to_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf1, "_ALWAYS_BYTES", 1 << 20)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(INDEX, b"x")
        archive.writestr("bert_model.ckpt.data-00000-of-00001", bytes(20 << 20))
    with pytest.raises(BertJaxError, match=r"a\.zip would unpack to 20,971,521 bytes, from .*: that is no checkpoint"):
        unpacked(path, tmp_path / "t", monkeypatch)
    assert list((tmp_path / "t").iterdir()) == []
    data = path.read_bytes()  # a member that says it is smaller than it is
    small = data.replace(struct.pack("<L", 20 << 20), struct.pack("<L", 1000))
    path.write_bytes(small)
    with pytest.raises(BertJaxError, match="cannot be unpacked"):
        unpacked(path, tmp_path / "t", monkeypatch)


@hostile(150)
@given(
    places=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 400),
)
def test_any_zip(tmp_path: Path, places: list[tuple[int, int]], cut: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"x/{INDEX}", b"index " * 20)
        archive.writestr("x/vocab.txt", "\n".join(WORDS))
    data = bytearray(packed.getvalue())
    for place, value in places:
        data[place % len(data)] = value
    path = tmp_path / "a.zip"
    path.write_bytes(data[:-cut] if cut % 3 == 0 and cut else data)
    answer(lambda: tf1.Unpacked(path))


def small_store(path: Path) -> Path:
    write_store(path, [["the cat sat .", "it ran ."]] * 4, small_tokenizer())
    return path


def forged(store: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A manifest that is changed and says so in its fingerprint."""
    from bert_jax.data.manifest import content_fingerprint

    manifest = json.loads((store / "manifest.json").read_text())
    change(manifest)
    manifest["fingerprint"] = content_fingerprint(manifest)
    (store / "manifest.json").write_text(json.dumps(manifest))
    return store


@pytest.mark.parametrize("name", [*OUTSIDE, 5, None])
def test_a_manifest_names_nothing_outside(tmp_path: Path, name: Any) -> None:
    store = forged(small_store(tmp_path / "store"), lambda manifest: manifest["shards"][0].update(name=name))
    with pytest.raises(BertJaxError, match="names inside the store"):
        load_store(store)
    if isinstance(name, str):
        entry = {"bytes": 1, "sha256": "0"}
        other = small_store(tmp_path / "other")
        forged(other, lambda manifest: manifest["tokenizer"]["files"].update({name: entry}))
        with pytest.raises(BertJaxError, match="names inside the store"):
            load_store(other)


@pytest.mark.parametrize(
    "listed", ["../../outside", [], ["vocab.txt"], {"vocab.txt": 5}, {"vocab.txt": {"bytes": "5"}}]
)
def test_a_manifest_whose_files_are_none(tmp_path: Path, listed: Any) -> None:
    store = forged(small_store(tmp_path / "store"), lambda manifest: manifest["tokenizer"].update(files=listed))
    with pytest.raises(BertJaxError, match="is damaged|names inside the store"):
        load_store(store)


def test_a_manifest_with_names_that_no_system_takes(tmp_path: Path) -> None:
    store = forged(small_store(tmp_path / "store"), lambda manifest: manifest["shards"][0].update(name="x" * 5000))
    with pytest.raises(BertJaxError, match="cannot read"):
        load_store(store)


def test_a_link_in_a_store_is_read_and_must_be_what_the_manifest_says(tmp_path: Path) -> None:
    """Shards on another disk, behind symbolic links, are a user's own business."""
    store = small_store(tmp_path / "store")
    file = store / "shards" / "00000" / "train.tokens.npy"
    file.rename(tmp_path / "elsewhere.npy")
    file.symlink_to(tmp_path / "elsewhere.npy")
    load_store(store).verify()
    (tmp_path / "elsewhere.npy").write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(BertJaxError, match="was altered"):
        load_store(store).verify()
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(BertJaxError, match=r"train\.tokens\.npy"):
        load_store(store)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("trained") / "run", {1: 2.0, 2: 1.5}).path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_directories_that_are_no_steps(run: Path) -> None:
    for name in ("٣", "007", "9" * 200, "9" * 19, "-1", "1e3", " 5", "5\n", "²", "..5", "1.damaged", "x"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "8").write_text("a file")
    assert list(step_directories(run / "checkpoints")) == [1, 2]
    (run / "checkpoints" / "8").unlink()
    assert open_run(run).newest_step == 2
    assert load_model(run).step == 2
    with pytest.raises(BertJaxError, match="has no checkpoint 9"):
        open_model(f"{run}@{'9' * 200}")
    with pytest.raises(BertJaxError):
        open_model(f"{run}@{'9' * 5000}")


def test_lines_of_a_run_are_not_written_through_links(run: Path, tmp_path: Path) -> None:
    """A run from elsewhere may hold symbolic links to any file of whoever goes on with it."""
    target = tmp_path / "theirs"
    target.write_text("mine\n")
    for name in ("history.jsonl", "metrics.jsonl", ".lock"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)
    opened = open_run(run)
    with pytest.raises(BertJaxError, match=r"cannot write .*history\.jsonl"):
        opened.record("started")
    with pytest.raises(BertJaxError, match=r"cannot lock .*\.lock"), opened.lock():
        pass
    writer = MetricsWriter(run / "metrics.jsonl", None, 0)
    writer.write({"step": 1})
    assert target.read_text() == "mine\n"
    (run / "metrics.jsonl").unlink(missing_ok=True)
    (run / "metrics.jsonl").symlink_to(tmp_path / "new")
    writer.write({"step": 1})
    assert not (tmp_path / "new").exists()
    files.write_text(run / "history.jsonl", "new\n")  # an atomic write takes the link's place
    assert target.read_text() == "mine\n" and not (run / "history.jsonl").is_symlink()


@hostile(60)
@given(data=st.data())
def test_any_value_in_a_runs_file(trained: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = json.loads((trained / "run.json").read_text())
    del whole["checksum"]  # which would name them all
    section = data.draw(st.sampled_from([[], ["config"], ["config", "model"], ["config", "train"]]))
    holder = whole
    for name in section:
        holder = holder[name]
    holder[data.draw(st.sampled_from([*holder]))] = data.draw(st.one_of(LEAVES, objects("a")))
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(dumped(whole))
    answer(lambda: open_run(folder))


@pytest.mark.parametrize("changed", [{"num_hidden_layers": 10**9}, {"hidden_size": 10**6}, {"num_attention_heads": 4}])
def test_a_runs_model_is_that_of_its_arrays(run: Path, changed: dict[str, int]) -> None:
    whole = json.loads((run / "run.json").read_text())
    del whole["checksum"]  # as runs of before there was one
    whole["config"]["model"].update(changed)
    (run / "run.json").write_text(json.dumps(whole))
    with pytest.raises(BertJaxError, match=r"run\.json.*its configuration says"):
        load_model(run)


@hostile(60)
@given(content=st.lists(st.one_of(BYTES, objects("step", "loss").map(dumped)), max_size=4).map(b"\n".join))
def test_any_bytes_as_metrics(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert all(isinstance(line["step"], int) for line in read_metrics(tmp_path / "metrics.jsonl"))


def test_a_record_that_was_forged(run: Path) -> None:
    """Its checksum is right, since whoever wrote it computed one."""
    for changed in ({"score": [1]}, {"score": "low"}, {"format": None}, {"format": [2]}):
        path = run / "checkpoints" / "2" / "record" / "digests.json"
        record = json.loads(path.read_text())
        record.pop("checksum")
        record.update(changed)
        path.write_text(json.dumps({"checksum": files.digest(record), **record}))
        assert load_model(f"{run}@best").step == 1
        assert load_model(run).step == 1


@pytest.mark.parametrize(
    "metadata", [{"step": "x"}, {"step": "[1]"}, {"score": "null"}, {"scores": "5"}, {"scores": "[" * 9999}]
)
def test_what_a_best_model_says_of_itself(tmp_path: Path, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    from bert_jax.train.best import best_models

    whole = {"step": "1", "score": "0.5", "scores": "{}", "sha256": "0", **metadata}
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "seed-0.safetensors", metadata=whole)
    with pytest.raises(BertJaxError, match=r"seed-0\.safetensors is damaged"):
        best_models(tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize("group", ["sources", "tokenizers", "tasks", "readers", "models", "tf1", "runs"])
def test_the_fuzz_command_finds_nothing(data_dir: Path, group: str) -> None:
    command = [sys.executable, str(REPOSITORY / "tests" / "chaos" / "fuzz.py"), "--seconds", "10", "--only", group]
    environment = {**os.environ, "BERT_JAX_TEST_DATA": str(data_dir)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    said = json.loads(done.stdout)
    assert said["cases"] >= len(said["targets"]) and done.returncode == 0, done.stdout[-3000:]
