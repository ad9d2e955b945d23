"""files: whatever is written is whole or not there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax import cli, files
from bert_jax.errors import BertJaxError


def test_atomic_writer_leaves_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")

    def fail_halfway() -> None:
        with files.atomic_writer(target, "w") as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_make_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "x").write_text("1")
        raise BertJaxError("no more")

    with pytest.raises(BertJaxError, match="no more"):
        files.make_directory(tmp_path / "d", half)
    assert os.listdir(tmp_path) == []
    files.make_directory(tmp_path / "d", lambda folder: files.write_text(folder / "x", "1"))
    assert (tmp_path / "d" / "x").read_text() == "1"
    with pytest.raises(BertJaxError, match="is not empty"):
        files.make_directory(tmp_path / "d", lambda folder: None)


def test_json_is_strict(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": [np.float32("inf"), np.int64(3)], "c": np.arange(2), "d": Path("x")}
    assert files.to_json(value) == '{"a": null, "b": [null, 3], "c": [0, 1], "d": "x"}'
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BertJaxError, match="bad.json is not JSON"):
        files.read_json(tmp_path / "bad.json")
    with pytest.raises(BertJaxError, match="cannot read .*none.json: No such file"):
        files.read_json(tmp_path / "none.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BertJaxError, match="cannot write .*: Permission denied"):
        files.write_text(tmp_path / "x", "1")


def test_digest_ignores_the_order_of_keys() -> None:
    assert files.digest({"a": 1, "b": [1, 2]}) == files.digest({"b": [1, 2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})


def test_lock_is_held_by_one_and_freed_by_death(tmp_path: Path) -> None:
    code = (
        "import sys, time; from bert_jax import files\n"
        f"with files.lock({str(tmp_path / 'run' / '.lock')!r}, wait=False):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(BertJaxError, match=rf"run is in use by another process \(process {holder.pid} on .* since 20"),
        files.lock(tmp_path / "run" / ".lock", wait=False),
    ):
        pass
    holder.kill()
    holder.communicate()
    with files.lock(tmp_path / "run" / ".lock", wait=False):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock").read_text()
    assert (tmp_path / "run" / ".lock").read_text() == ""


def test_lines_of_stdin_are_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "latin-1"))

    given("é\nb\n\nlast".encode())
    assert list(files.lines_of_stdin()) == ["é", "b", "", "last"]
    given(b"good\nx\xff\n")
    with pytest.raises(BertJaxError, match=r"stdin is not UTF-8 in line 2, byte 1: .*--encoding-errors replace"):
        list(files.lines_of_stdin())
    given(b"good\nx\xff\n")
    assert list(files.lines_of_stdin("replace")) == ["good", "x\ufffd"]


def test_half_a_surrogate_pair_stays_json() -> None:
    text = files.to_json({"text": "é\ud800"})
    assert text.encode("utf-8") and json.loads(text) == {"text": "é\ud800"}


def test_where_nothing_can_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BertJaxError, match=r"cannot write .*file/out: Not a directory"):
        files.require_writable(tmp_path / "file" / "out")
    files.require_writable(tmp_path / "new" / "deep" / "out")
    files.require_writable(tmp_path / "file")  # may be replaced
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_commands_look_where_they_write_before_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any, **__: Any) -> None:
        pytest.fail("worked before it looked")

    for place in ("data.counting.count_source", "formats.convert.load_model", "infer.loaded.load"):
        monkeypatch.setattr(f"bert_jax.{place}", work)
    (tmp_path / "file").write_text("A text.\n")
    for line in ("vocab --source {0} --out {0}/x", "convert {0} {0}/x", "predict fill-mask {0} a --out {0}/x.jsonl"):
        assert cli.main(line.format(tmp_path / "file").split()) == 1


def test_json_of_any_kind_is_a_value_or_a_value_error() -> None:
    assert files.parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert files.parse_json(' {"a": 1} []', 1) == ({"a": 1}, 9)
    assert files.parse_json('"' + "[" * 500 + '"') == "[" * 500
    deep = "[" * files.JSON_DEPTH + "]" * files.JSON_DEPTH
    assert isinstance(files.parse_json(deep), list)
    for text, reason in {
        f"[{deep}]": "more than 100 deep",
        '{"a":' * 101 + "1" + "}" * 101: "more than 100 deep",
        "[" * 1_000_000: "more than 100 deep",
        "9" * 5000: "more than 4,300 digits",
        '{"a": -' + "9" * 5000 + "}": "more than 4,300 digits",
        "{": "Expecting property name",
        "": "Expecting value",
    }.items():
        with pytest.raises(ValueError, match=reason):
            files.parse_json(text)
        with pytest.raises(ValueError, match=reason):
            files.parse_json(text, 0)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *(("a", True), ("a/b.npy", True), ("..a", True), ("", False), (".", False), ("..", False), ("/", False)),
        *(("/a", False), ("a/../b", False), ("../a", False), (5, False), (None, False), (["a"], False)),
    ],
)
def test_names_that_stay_inside(name: object, inside: bool) -> None:
    assert files.is_inside(name) is inside


def test_lines_are_added_whole_and_follow_no_link(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    for line in "ab":
        files.append_line(lines, line)
    assert lines.read_text() == "a\nb\n"
    lines.write_text("a\nhal")  # as a full disk leaves it
    files.append_line(lines, "b")
    assert lines.read_text() == "a\nhal\nb\n"
    (tmp_path / "link").symlink_to(lines)
    with pytest.raises(OSError, match="symbolic links"):
        files.append_line(tmp_path / "link", "c")
    assert lines.read_text() == "a\nhal\nb\n"
