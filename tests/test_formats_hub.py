"""Models of the hub, from a server on this machine that speaks its endpoints: fetched, resumed, cached, refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import jax
import numpy as np
import pytest
from loopback_hub import COMMIT, OTHER, Hub, serving
from small_models import small_config, small_parameters, small_tokenizer

import bert_jax
from bert_jax.errors import BertJaxError
from bert_jax.formats import file_names, pooling
from bert_jax.formats import hub as hub_room
from bert_jax.formats.hugging_face import write_model_directory
from bert_jax.formats.model import open_model
from bert_jax.formats.pooling import Pooling
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.text import tokenizer_files, tokenizer_json
from bert_jax.text.tokenizer import SentencePieceTokenizer

pytest.importorskip("huggingface_hub")

FETCH = """
import json, os, sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = int(os.environ.get("CHUNK", 10485760))
from bert_jax.errors import BertJaxError
from bert_jax.formats.hub import fetch
try:
    folder, provenance = fetch(sys.argv[1])
    print(json.dumps({"folder": str(folder), **provenance}))
except BertJaxError as error:
    print(json.dumps({"error": str(error)}))
"""
REPOSITORY = Path(__file__).resolve().parent.parent
NEEDED = ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small model as the hub holds one, beside files that are nobody's business."""
    folder = tmp_path_factory.mktemp("model")
    write_model_directory(folder, small_config(), small_parameters(), ("masked_lm", "next_sentence"))
    small_tokenizer().save(folder)
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    others = (
        "README.md",
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "onnx/config.json",
    )
    return found | dict.fromkeys(others, b"never fetched")


def run(code: str, *arguments: str, endpoint: str, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own: the library reads its variables when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(REPOSITORY),
        **variables,
    }
    environment.pop("HF_HUB_OFFLINE", None) if "HF_HUB_OFFLINE" not in variables else None
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def fetch(spec: str, endpoint: str, cache: Path, **variables: str) -> dict[str, str]:
    done = run(FETCH, spec, endpoint=endpoint, cache=cache, **variables)
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert "\n" not in answer.get("error", "")
    return answer


def test_only_what_is_needed_is_fetched_and_the_cache_serves_without_a_network(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    with serving(Hub(files)) as hub:
        answer = fetch("hf:org/tiny", hub.url, tmp_path)
        assert hub.fetched() == [*NEEDED]
        assert (answer["repository"], answer["revision"], answer["commit"]) == ("org/tiny", "main", COMMIT)
        before = len(hub.requests)
        assert fetch("hf:org/tiny", hub.url, tmp_path) == answer
        assert not any("/resolve/" in path for _, path, _ in hub.requests[before:])
        url = hub.url
    assert fetch("hf:org/tiny", url, tmp_path) == answer  # the server is gone
    assert fetch("hf:org/tiny", url, tmp_path, HF_HUB_OFFLINE="1") == answer
    assert (Path(answer["folder"]) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_the_command_line_reads_a_hub_model(tmp_path: Path, files: dict[str, bytes]) -> None:
    code = "import sys; from bert_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    with serving(Hub(files)) as hub:
        done = run(code, "info", "hf:org/tiny@main", endpoint=hub.url, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert (described["path"], described["kind"]) == ("hf:org/tiny@main", "hugging_face")
    assert described["provenance"]["commit"] == COMMIT
    assert described["heads"] == ["masked_lm", "next_sentence"]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(tmp_path: Path, files: dict[str, bytes]) -> None:
    with serving(Hub(files)) as hub:
        hub.cut["model.safetensors"] = 1000
        answer = fetch("hf:org/tiny", hub.url, tmp_path, CHUNK="500")
        ranges = [given for _, path, given in hub.requests if given and path.endswith("model.safetensors")]
    assert ranges == ["bytes=1000-"]
    assert (Path(answer["folder"]) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_file_that_cannot_be_had_and_starting_again(tmp_path: Path, files: dict[str, bytes]) -> None:
    with serving(Hub(files)) as hub:
        hub.failing.add("model.safetensors")
        error = fetch("hf:org/tiny", hub.url, tmp_path)["error"]
        assert error.startswith("hf:org/tiny could not be fetched (") and "files that are whole are kept" in error
        hub.failing.clear()
        hub.requests.clear()
        fetch("hf:org/tiny", hub.url, tmp_path)
        assert "model.safetensors" in hub.fetched()
        hub.requests.clear()
        assert fetch("hf:org/tiny", hub.url, tmp_path) and hub.fetched() == []


def test_a_revision(tmp_path: Path, files: dict[str, bytes]) -> None:
    hub = Hub(files)
    hub.commits[OTHER] = {**files, "vocab.txt": files["vocab.txt"] + b"more\n"}
    hub.branches["refs/pr/3"] = OTHER
    with serving(hub):
        answer = fetch("hf:org/tiny@refs/pr/3", hub.url, tmp_path)
        assert (answer["revision"], answer["commit"]) == ("refs/pr/3", OTHER)
        assert fetch(f"hf:org/tiny@{OTHER}", hub.url, tmp_path)["folder"] == answer["folder"]
        missing = fetch("hf:org/tiny@absent", hub.url, tmp_path)
    assert missing["error"].startswith("hf:org/tiny@absent has no revision 'absent'")


def test_what_is_missing_closed_or_out_of_reach(tmp_path: Path, files: dict[str, bytes]) -> None:
    with serving(Hub(files)) as hub:
        error = fetch("hf:org/absent", hub.url, tmp_path / "1")["error"]
        assert error.startswith("hf:org/absent is not on the hub, or private")
        hub.gated = True
        assert "hf:org/tiny is gated: ask for access" in fetch("hf:org/tiny", hub.url, tmp_path / "2")["error"]
        hub.gated, hub.broken = False, True
        error = fetch("hf:org/tiny", hub.url, tmp_path / "3", HF_HUB_ETAG_TIMEOUT="1")["error"]
        assert "the hub is out of reach" in error
        url = hub.url
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        error = fetch("hf:org/tiny", url, tmp_path / "4", **variables)["error"]
        assert "hf:org/tiny is not whole in the cache" in error and "the hub is out of reach" in error
        assert ("HF_HUB_OFFLINE is set" in error) is bool(variables)


def test_repositories_without_a_configuration_or_weights_that_are_read(tmp_path: Path, files: dict[str, bytes]) -> None:
    without = {name: content for name, content in files.items() if name != "config.json"}
    with serving(Hub(without)) as hub:
        assert "hf:org/tiny has no config.json" in fetch("hf:org/tiny", hub.url, tmp_path / "1")["error"]
    pickle = {
        name: content for name, content in files.items() if name not in ("model.safetensors", "flax_model.msgpack")
    }
    with serving(Hub(pickle)) as hub:
        error = fetch("hf:org/tiny", hub.url, tmp_path / "2")["error"]
        assert "a pickle is never fetched" in error and "hf:org/tiny@refs/pr/NUMBER" in error
        assert "pytorch_model.bin" not in hub.fetched()
    flax = {name: content for name, content in files.items() if name != "model.safetensors"}
    with serving(Hub(flax)) as hub:
        answer = fetch("hf:org/tiny", hub.url, tmp_path / "3")
        assert (Path(answer["folder"]) / "flax_model.msgpack").read_bytes() == b"never fetched"


def test_shards_and_sentence_transformers_in_a_subfolder(tmp_path: Path, files: dict[str, bytes]) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    sharded = {name: name.encode() for name in (*names, "config.json", "vocab.txt")}
    with serving(Hub(sharded)) as hub:
        fetch("hf:org/tiny", hub.url, tmp_path / "1")
        assert hub.fetched() == sorted(sharded)
    listed = ["modules.json", "0_Transformer/config.json", "0_Transformer/model.safetensors", "0_Transformer/vocab.txt"]
    nested = {name: name.encode() for name in (*listed, "1_Pooling/config.json")}
    with serving(Hub({**nested, "0_Transformer/pytorch_model.bin": b"x"})) as hub:
        fetch("hf:org/tiny", hub.url, tmp_path / "2")
        assert hub.fetched() == sorted(nested)


def nested(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same model as sentence-transformers once laid it out, the encoder in a folder of its own."""
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    return {
        **{f"0_Transformer/{name}": content for name, content in files.items()},
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    }


def fetched_directory(files: dict[str, bytes], folder: Path) -> Path:
    """Where the hub's cache holds what is fetched of a repository of `files`."""
    with serving(Hub(files)) as hub:
        return Path(fetch("hf:org/tiny", hub.url, folder)["folder"])


def written(files: dict[str, bytes], folder: Path) -> Path:
    """The directory that somebody has who cloned the repository."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("layout", [dict, nested])
def test_added_tokens_are_entries_as_in_the_same_directory_here(
    tmp_path: Path, files: dict[str, bytes], layout: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    lines = files["vocab.txt"].decode().splitlines()
    known, added = lines[:-2], {piece: number for number, piece in enumerate(lines[-2:], len(lines) - 2)}
    parts = {name: content for name, content in files.items() if name in NEEDED}
    vocabulary = {"vocab.txt": "\n".join(known).encode(), "added_tokens.json": json.dumps(added).encode()}
    repository = layout(parts | vocabulary)
    here = open_model(written(repository, tmp_path / "here"))
    there = open_model(fetched_directory(repository, tmp_path / "cache"))
    assert there.tokenizer.vocab_size == here.tokenizer.vocab_size == len(lines)
    assert there.tokenizer.fingerprint == here.tokenizer.fingerprint


@pytest.mark.parametrize("layout", [dict, nested])
def test_a_sentence_piece_model_is_fetched(
    tmp_path: Path, data_dir: Path, layout: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tokenizer = SentencePieceTokenizer((data_dir / "sentencepiece" / "albert_30k_clean.model").read_bytes(), False)
    config = dataclasses.replace(small_config(), vocab_size=tokenizer.vocab_size)
    shapes = abstract_parameters(make_model(config, heads=()))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    write_model_directory(model, config, params, ())
    tokenizer.save(model)
    repository = layout({file.name: file.read_bytes() for file in model.iterdir()})
    there = open_model(fetched_directory(repository, tmp_path / "cache"))
    assert there.tokenizer.fingerprint == open_model(model).tokenizer.fingerprint


def test_a_sentence_transformers_repository_embeds_as_its_directory(tmp_path: Path, files: dict[str, bytes]) -> None:
    """As MiniLM lies there, without the `vocab.txt`: recipe, limit, prompts and vectors are those of a clone."""
    clone = tmp_path / "clone"
    clone.mkdir()
    write_model_directory(clone, small_config(), small_parameters(heads=()), ())
    entries = files["vocab.txt"].decode().splitlines()
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": False}
    tokenizer = {
        "added_tokens": [{"id": number, "content": piece, "special": True} for number, piece in enumerate(entries[:5])],
        "normalizer": {**normalizer, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": {piece: number for number, piece in enumerate(entries)}},
    }
    modules = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for number, (place, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    others = {
        "tokenizer.json": tokenizer,
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_cls_token": True},
        "sentence_bert_config.json": {"max_seq_length": 7, "do_lower_case": True},
        "config_sentence_transformers.json": {"prompts": {"query": "a dog ran : "}, "default_prompt_name": "query"},
    }
    written({name: json.dumps(value).encode() for name, value in others.items()}, clone)
    repository = {str(file.relative_to(clone)): file.read_bytes() for file in clone.rglob("*") if file.is_file()}
    here, there = bert_jax.load(clone), bert_jax.load(fetched_directory(repository, tmp_path / "cache"))
    prompts = {"query": "a dog ran : "}
    expected = Pooling("cls", True, 7, prompts, "query", lower_case=True)
    assert there.source.pooling == here.source.pooling == expected
    assert there.tokenizer.vocab_size == len(entries)
    texts = ["The CAT sat on the mat .", "rain", "it was wet , the dog was tired"]
    vectors = there.embed(texts, truncate=True)
    np.testing.assert_array_equal(vectors, here.embed(texts, truncate=True))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for missing in ("CLS", "prompt", "length"):
        other = {"CLS": {"pooling": "mean"}, "prompt": {"prompt": ""}, "length": {"max_length": 6}}[missing]
        assert not np.allclose(vectors, there.embed(texts, truncate=True, **other), atol=1e-4), missing  # type: ignore[arg-type]


def test_every_file_that_the_readers_name_is_fetched() -> None:
    """A constant `…_FILE` of a module that reads a directory is a file the hub must give, unless it is never read."""
    named = {
        value
        for module in (tokenizer_files, tokenizer_json, pooling, file_names)
        for name, value in vars(module).items()
        if name.endswith("_FILE") and isinstance(value, str)
    }
    never = {file_names.PICKLE_FILE, file_names.PICKLE_INDEX_FILE, file_names.KERAS_FILE}
    patterns = (*hub_room._SMALL, *hub_room._SAFETENSORS, *hub_room._FLAX)
    for name in named:
        for place in (name, f"0_Transformer/{name}"):
            assert any(fnmatch(place, pattern) for pattern in patterns) is (name not in never), place
    assert "onnx/config.json" not in patterns and not any(fnmatch("onnx/config.json", each) for each in patterns)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hf:bert-base-uncased", "on the Hugging Face hub it would be hf:google-bert/bert-base-uncased"),
        ("hf:", "expected hf:ORG/NAME"),
        ("hf:a/b/c", "expected hf:ORG/NAME"),
        ("hf:a/b@", "expected hf:ORG/NAME"),
    ],
)
def test_spellings(spec: str, expected: str) -> None:
    with pytest.raises(BertJaxError, match=expected):
        hub_room.parse(spec)
    assert hub_room.parse("hf:a/b@refs/pr/1") == ("a/b", "refs/pr/1")


def test_a_name_the_hub_would_not_take(tmp_path: Path) -> None:
    assert "is no model of the hub" in fetch("hf:a b/c--d", "http://127.0.0.1:1", tmp_path)["error"]


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BertJaxError, match=r"hf:org/tiny needs huggingface_hub: pip install 'bert-jax\[hub\]'"):
        hub_room.fetch("hf:org/tiny")


def test_small_parameters_are_what_was_written(files: dict[str, bytes]) -> None:
    from safetensors.numpy import load

    theirs = load(files["model.safetensors"])["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(theirs, small_parameters()["embeddings"]["word_embeddings"])


OUTSIDE = (
    "1_/../../../../../outside/config.json",
    "../config.json",
    "/outside/config.json",
    "1_x\\..\\..\\config.json",
    "0_Transformer/../../../../../../outside/config.json",
)


def written_outside(folder: Path, cache: Path) -> list[str]:
    """What lies in `folder` and neither in `cache` nor on the way to it."""
    found = (path for path in folder.rglob("*") if not path.is_relative_to(cache) and not cache.is_relative_to(path))
    return sorted(str(path) for path in found)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_server_that_names_files_outside(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    cache = tmp_path / "a" / "b" / "cache"
    with serving(Hub({**files, name: b"{}"})) as hub:
        answer = fetch("hf:org/tiny", hub.url, cache)
    assert written_outside(tmp_path, cache) == []
    assert "could not be fetched" in answer.get("error", "could not be fetched")
    if "folder" in answer:
        assert Path(answer["folder"]).resolve().is_relative_to(cache)


@pytest.mark.parametrize("commit", ["../../../../../outside", "/outside", "..", "main/../../x", "x" * 300])
def test_a_server_that_names_a_commit_outside(tmp_path: Path, files: dict[str, bytes], commit: str) -> None:
    cache = tmp_path / "a" / "b" / "cache"
    with serving(Hub(files)) as hub:
        hub.commits = {commit: dict(files)}
        hub.branches = {"main": commit}
        answer = fetch("hf:org/tiny", hub.url, cache)
    assert written_outside(tmp_path, cache) == []
    assert "error" in answer


@pytest.mark.xfail(strict=True, reason="huggingface_hub calls the file in its cache what the server's ETag says")
def test_a_server_that_names_contents_outside(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the library looks at it, HF_ENDPOINT has to be a server that one trusts."""
    cache = tmp_path / "a" / "b" / "cache"
    monkeypatch.setattr("loopback_hub._etag", lambda content: "../../../../../outside")
    with serving(Hub(files)) as hub:
        fetch("hf:org/tiny", hub.url, cache)
    assert written_outside(tmp_path, cache) == []
