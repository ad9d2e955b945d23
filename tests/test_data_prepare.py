"""Text to token store: the same bytes however it is made, whole or not there, and every refusal in one line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.console import logger
from bert_jax.data import prepare as module
from bert_jax.data import worker
from bert_jax.data.pool import map_unordered
from bert_jax.data.prepare import prepare
from bert_jax.data.sources import open_source
from bert_jax.data.store import Store, load_store
from bert_jax.errors import BertJaxError
from bert_jax.text.tokenizer import Tokenizer, WordPieceTokenizer, load_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Letters, digits and marks, alone and as continuations: every English word is known, letter by letter."""
    characters = string.ascii_lowercase + string.digits
    pieces = [*characters, *(f"##{character}" for character in characters), *string.punctuation, "the", "##ing"]
    return WordPieceTokenizer([*SPECIALS, *pieces], cased=False)


@pytest.fixture(scope="session")
def corpus(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some real documents of English Wikipedia in several files."""
    folder = tmp_path_factory.mktemp("corpus")
    text = (data_dir / "corpus" / "enwiki" / "AA_wiki_02.txt").read_text("utf-8")[:400_000]
    documents = [part for part in text.split("</doc>\n") if part.strip().startswith("<doc ")][:-1]
    for index in range(8):
        (folder / f"{index}.txt").write_text("".join(f"{part}</doc>\n" for part in documents[index::8]), "utf-8")
    return folder


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_back(store: Store, split: str) -> list[list[list[int]]]:
    documents = []
    for shard in store.split(split).shards:
        sentences = [part.tolist() for part in np.split(shard.tokens, shard.sentence_ends)[:-1]]
        first = 0
        for end in shard.document_ends.tolist():
            documents.append(sentences[first:end])
            first = end
    return documents


@pytest.fixture(scope="module")
def made(corpus: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    out = tmp_path_factory.mktemp("made") / "store"
    report = prepare([str(corpus)], tokenizer, out, workers=1, eval_fraction=0.2, verify=True)
    return load_store(out), report


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_a_store_holds_what_the_source_holds(
    made: tuple[Store, dict[str, Any]], corpus: Path, tokenizer: Tokenizer
) -> None:
    store, report = made
    expected = [[tokenizer.ids(sentence) for sentence in document] for document in open_source(str(corpus))]
    found = read_back(store, "train") + read_back(store, "eval")
    assert sorted(found) == sorted(expected)
    assert report["documents"] == len(expected)
    assert report["train"]["documents"] + report["eval"]["documents"] == len(expected)
    assert 0 < store.split("eval").documents < len(expected) / 2
    assert report["tokens"] == sum(len(sentence) for document in expected for sentence in document)
    assert report["shards"] == len(store.manifest["shards"]) == 8


def test_word_starts_are_those_of_the_pieces(made: tuple[Store, dict[str, Any]], tokenizer: Tokenizer) -> None:
    store, _ = made
    for shard in store.split("train").shards:
        bits = np.unpackbits(shard.word_starts, bitorder="little")[: len(shard.tokens)]
        np.testing.assert_array_equal(bits, tokenizer.word_starts(shard.tokens))
    assert store.word_starts == "pieces"


def test_the_store_carries_its_tokenizer(made: tuple[Store, dict[str, Any]], tokenizer: Tokenizer) -> None:
    store, _ = made
    assert load_tokenizer(store.tokenizer_path).fingerprint == store.tokenizer_fingerprint == tokenizer.fingerprint
    assert store.vocab_size == tokenizer.vocab_size


def test_nothing_but_the_store_is_left(made: tuple[Store, dict[str, Any]]) -> None:
    store, _ = made
    assert [path.name for path in store.path.parent.iterdir()] == ["store"]
    assert {path.name for path in store.path.iterdir()} == {"manifest.json", "tokenizer", "shards"}


def test_the_report_is_json_and_the_summary_is_kept(made: tuple[Store, dict[str, Any]]) -> None:
    store, report = made
    json.dumps(report, allow_nan=False)
    assert {key: report[key] for key in store.manifest["summary"]} == store.manifest["summary"]
    assert 0.4 < report["random_pairs_share"]["128"] <= 1
    assert set(report["random_pairs_share"]) == {"128", "512"}
    assert store.manifest["settings"]["eval_fraction"] == 0.2


def test_the_sample_text_of_the_official_code(data_dir: Path, tmp_path: Path) -> None:
    """One sentence per line, a blank line between documents, and the official uncased vocabulary."""
    shutil.copy(data_dir / "vocab" / "bert_base_uncased.txt", tmp_path / "vocab.txt")
    tokenizer = WordPieceTokenizer((tmp_path / "vocab.txt").read_text("utf-8").split("\n")[:-1], cased=False)
    path = data_dir / "corpus" / "sample_text.txt"
    report = prepare(path, tokenizer, tmp_path / "store", workers=1, eval_fraction=0)
    paragraphs = [part.split("\n") for part in path.read_text("utf-8").strip().split("\n\n")]
    expected = [[tokenizer.ids(line) for line in lines if line.strip()] for lines in paragraphs]
    assert read_back(load_store(tmp_path / "store"), "train") == [document for document in expected if document]
    assert report["eval"]["documents"] == 0


def test_short_documents_and_repeated_lines_are_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = [["one a", "two"], ["alone"], ["two", "three", "\u200b"], ["alone", "three"], ["four", "four", "five"]]
    plain = prepare([documents], tokenizer, tmp_path / "plain", workers=1, eval_fraction=0)
    assert (plain["documents"], plain["sentences"]) == (5, 10)  # the line without a token is none
    assert plain["repeated_lines_share"] == pytest.approx(4 / 10)
    assert "--drop-repeated-lines" in plain["warnings"][0]
    longer = prepare([documents], tokenizer, tmp_path / "long", workers=1, eval_fraction=0, min_document_sentences=2)
    assert (longer["documents"], longer["sentences"], longer["dropped_documents"]) == (4, 9, 1)
    unique = prepare(
        [documents],
        tokenizer,
        tmp_path / "unique",
        workers=1,
        eval_fraction=0,
        drop_repeated_lines=True,
    )
    found = read_back(load_store(tmp_path / "unique"), "train")
    kept = [["one a", "two"], ["alone"], ["three"], ["four", "five"]]
    assert found == [[tokenizer.ids(line) for line in lines] for lines in kept]
    assert (unique["dropped_documents"], unique["dropped_repeated_lines"]) == (1, 4)
    assert unique["repeated_lines_share"] == 0


def test_chinese_without_a_segmenter_has_no_word_starts(tmp_path: Path, data_dir: Path) -> None:
    vocabulary = (data_dir / "vocab" / "bert_base_chinese.txt").read_text("utf-8").split("\n")[:-1]
    tokenizer = WordPieceTokenizer(vocabulary, cased=False)
    path = data_dir / "corpus" / "news_zh_1.txt"
    prepare(path, tokenizer, tmp_path / "zh", workers=1)
    store = load_store(tmp_path / "zh")
    assert store.word_starts == "none"
    assert not store.has_word_starts
    prepare(data_dir / "corpus" / "sample_text.txt", tokenizer, tmp_path / "en", workers=1)
    assert load_store(tmp_path / "en").has_word_starts


def first_three_letters(text: str) -> list[str]:
    """A segmenter for tests: words of three characters."""
    return [text[index : index + 3] for index in range(0, len(text), 3)]


def test_word_starts_of_a_segmenter(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    name = "test_data_prepare:first_three_letters"
    documents = [["abcdefgh", "xyzx"], ["aaaa"]]
    prepare([documents], tokenizer, tmp_path / "s", workers=1, eval_fraction=0, segmenter=name)
    store = load_store(tmp_path / "s")
    assert store.word_starts == f"segmenter:{name}"
    assert store.segmenter == name
    (shard,) = store.split("train").shards
    bits = np.unpackbits(shard.word_starts, bitorder="little")[: len(shard.tokens)]
    assert bits.tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1]


def test_every_sentence_begins_with_a_word(tokenizer: Tokenizer) -> None:
    class State:
        segmenter = None

    State.tokenizer = tokenizer  # type: ignore[attr-defined]
    goes_on = tokenizer.id_of("##a")
    starts = worker._word_starts(np.full(5, goes_on), np.array([2, 3]), ["", ""], State())  # type: ignore[arg-type]
    assert starts.tolist() == [True, False, True, False, False]


def test_chinese_with_a_segmenter_has_word_starts(tmp_path: Path, data_dir: Path) -> None:
    vocabulary = (data_dir / "vocab" / "bert_base_chinese.txt").read_text("utf-8").split("\n")[:-1]
    tokenizer = WordPieceTokenizer(vocabulary, cased=False)
    documents = [["我 喜欢 北京", "天气 很 好"]]
    prepare([documents], tokenizer, tmp_path / "zh", workers=1, eval_fraction=0, segmenter="spaces")
    store = load_store(tmp_path / "zh")
    assert (store.word_starts, store.has_word_starts) == ("segmenter:spaces", True)
    (shard,) = store.split("train").shards
    assert np.unpackbits(shard.word_starts, bitorder="little")[:10].tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 1, 0]


# --- the same however it is made --------------------------------------------------------------------------------------


def test_two_workers_make_the_same_bytes_as_one(
    made: tuple[Store, dict[str, Any]], corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    report = prepare([str(corpus)], tokenizer, tmp_path / "store", workers=2, eval_fraction=0.2)
    assert files_of(tmp_path / "store") == files_of(made[0].path)
    assert report["workers"] == 2


def test_dropping_repeated_lines_does_not_depend_on_workers(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for workers in (1, 2):
        prepare([str(corpus)], tokenizer, tmp_path / str(workers), workers=workers, drop_repeated_lines=True)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


_PREPARE = """
import sys
from bert_jax.data.prepare import prepare
corpus, tokenizer, out = sys.argv[1:]
prepare([corpus], tokenizer, out, workers=2, eval_fraction=0.2)
"""


@pytest.fixture
def many_files(corpus: Path, tmp_path: Path) -> Path:
    """Enough shards that a run can be caught in the middle."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(48):
        documents = (corpus / f"{index % 8}.txt").read_text("utf-8").split("</doc>\n")
        (folder / f"{index:02d}.txt").write_text(f"{documents[0]}</doc>\n", "utf-8")
    return folder


def children_of(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")
def test_a_killed_run_leaves_no_store_no_orphans_and_is_continued(
    many_files: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    out = tmp_path / "killed"
    records = tmp_path / ".killed.partial" / "records"
    command = [sys.executable, "-c", _PREPARE, str(many_files), str(tmp_path / "tokenizer"), str(out)]
    process = subprocess.Popen(command)
    wait_until(lambda: len(list(records.glob("*.json"))) >= 3 or process.poll() is not None)
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) == 2
    wait_until(lambda: not any(map(is_alive, children)))
    assert not out.exists()
    with pytest.raises(BertJaxError, match="unfinished one lies beside it"):
        load_store(out)
    finished = {path.stem: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert 3 <= len(finished) < 48
    report = prepare([str(many_files)], tmp_path / "tokenizer", out, workers=1, eval_fraction=0.2)
    assert report["reused_shards"] == len(finished)
    prepare([str(many_files)], tmp_path / "tokenizer", tmp_path / "whole", workers=1, eval_fraction=0.2)
    assert files_of(out) == files_of(tmp_path / "whole")


@pytest.fixture
def interrupted(corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unfinished store with all its shards, stopped before its manifest."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare([str(corpus)], tokenizer, tmp_path / "store", workers=1, eval_fraction=0.2)
    assert not (tmp_path / "store").exists()
    return tmp_path / ".store.partial"


def test_a_damaged_finished_shard_is_made_again(
    interrupted: Path, made: tuple[Store, dict[str, Any]], corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = interrupted / "shards" / "00003" / "train.tokens.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    report = prepare([str(corpus)], tokenizer, tmp_path / "store", workers=1, eval_fraction=0.2)
    assert report["reused_shards"] == 7
    assert files_of(tmp_path / "store") == files_of(made[0].path)


def test_damage_found_at_the_end_is_mended_by_the_next_call(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = module._finish

    def finish_and_damage(job: Any, *arguments: Any) -> None:
        finish(job, *arguments)
        path = job.root / "shards" / "00000" / "train.tokens.npy"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", finish_and_damage)
        refused("was altered", tmp_path / "s", [str(corpus)], tokenizer, workers=1, verify=True)
    report = prepare([str(corpus)], tokenizer, tmp_path / "s", workers=1, verify=True)
    assert report["reused_shards"] == 7


def test_other_settings_begin_anew(interrupted: Path, corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    report = prepare([str(corpus)], tokenizer, tmp_path / "store", workers=1, eval_fraction=0.3)
    assert report["reused_shards"] == 0
    assert not interrupted.exists()


def test_another_text_begins_anew(interrupted: Path, corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "changed")
    with open(tmp_path / "changed" / "0.txt", "a") as file:
        file.write("<doc>\nmore\n</doc>\n")
    report = prepare([str(tmp_path / "changed")], tokenizer, tmp_path / "store", workers=1, eval_fraction=0.2)
    assert report["reused_shards"] == 0


def test_a_large_file_written_since_begins_anew(
    interrupted: Path, corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every byte of one is in the fingerprint: the time it was written stands for the others."""
    monkeypatch.setattr(module, "WHOLE_BYTES", 100)
    settings = {"workers": 1, "eval_fraction": 0.2}
    monkeypatch.setattr(module, "_rename", lambda *_: (_ for _ in ()).throw(BertJaxError("stopped")))
    refused("stopped", tmp_path / "store", [str(corpus)], tokenizer, **settings)
    plan = (interrupted / "plan.json").read_bytes()
    refused("stopped", tmp_path / "store", [str(corpus)], tokenizer, **settings)
    assert (interrupted / "plan.json").read_bytes() == plan
    file = next(corpus.glob("*.txt"))
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        refused("stopped", tmp_path / "store", [str(corpus)], tokenizer, **settings)
        assert (interrupted / "plan.json").read_bytes() != plan
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_second_writer_is_refused(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from bert_jax.files import lock

    with lock(tmp_path / ".store.partial" / "lock"), pytest.raises(BertJaxError, match="in use by another process"):
        prepare([str(corpus)], tokenizer, tmp_path / "store", workers=1)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(match: str, out: Path, *arguments: Any, **settings: Any) -> None:
    with pytest.raises(BertJaxError, match=match) as error:
        prepare(*arguments, out, **settings)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_settings_that_cannot_be(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    refused("eval_fraction is 1", tmp_path / "s", [str(corpus)], tokenizer, eval_fraction=1)
    refused("min_document_sentences is 0", tmp_path / "s", [str(corpus)], tokenizer, min_document_sentences=0)
    refused("workers is 0", tmp_path / "s", [str(corpus)], tokenizer, workers=0)
    refused("no such file", tmp_path / "s", [str(tmp_path / "nothing")], tokenizer)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_the_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    out = tmp_path / "s"
    (tmp_path / "empty.txt").write_text("\n \n")
    refused("holds no text", out, [str(tmp_path / "empty.txt")], tokenizer)
    refused("gives no documents", out, [["\u200b"]], tokenizer, workers=1)
    match = "all 2 were left out.*lower --min-document-sentences"
    refused(match, out, iter(["a b", "c"]), tokenizer, workers=1, min_document_sentences=2)
    refused("all 1 documents fell into the held-out part", out, [["a"]], tokenizer, workers=1, eval_fraction=0.999999)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]  # the same call could not go on with anything


def test_what_is_at_the_target_is_never_replaced(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    with pytest.raises(BertJaxError, match="exists and is not empty"):
        prepare([str(corpus)], tokenizer, tmp_path / "mine", workers=1)
    assert (tmp_path / "mine" / "file").read_text() == "x"


def test_no_permission_or_no_place(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BertJaxError, match="cannot .*file"):
        prepare([str(corpus)], tokenizer, tmp_path / "file" / "store", workers=1)


_FULL_DISK = """
import resource, sys
from bert_jax.data.prepare import prepare
from bert_jax.errors import BertJaxError
corpus, tokenizer, out, workers = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    prepare([corpus], tokenizer, out, workers=int(workers))
except BertJaxError as error:
    print(error)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_no_more(corpus: Path, tokenizer: Tokenizer, tmp_path: Path, workers: int) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    command = [sys.executable, "-c", _FULL_DISK, str(corpus), str(tmp_path / "tokenizer"), str(tmp_path / "s")]
    done = subprocess.run([*command, str(workers)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot write ")
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "s").exists()
    partial = tmp_path / ".s.partial"  # kept only where there is something to go on with
    assert partial.exists() == any((partial / "records").glob("*.json"))


def test_what_can_go_on_is_kept_and_told_where(
    many_files: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    write, names = module.write_shard, []

    def full_at_the_third(name: str, units: Any) -> str:
        names.append(name)
        if len(names) == 3:
            raise BertJaxError("cannot write it: No space left on device") from OSError(28, "No space left on device")
        return str(write(name, units))

    caplog.set_level("INFO", "bert_jax")
    monkeypatch.setattr(module, "write_shard", full_at_the_third)
    refused("No space left", tmp_path / "s", [str(many_files)], tokenizer, workers=1)
    told = [line for line in caplog.messages if "are kept in" in line]
    where = tmp_path / ".s.partial"
    rest = "the same call continues with them; remove that folder to give their space back"
    assert told == [f"2 finished shards are kept in {where}: {rest}"]
    assert prepare([str(many_files)], tokenizer, tmp_path / "s", workers=1)["reused_shards"] == 2


def test_the_error_of_a_worker_is_one_line(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    shutil.copy(corpus / "0.txt", folder)
    # Far enough inside that only the worker that reads it can see it.
    (folder / "bad.txt").write_bytes(b"<doc >\nfine\n</doc>\n" * 9_999 + b"<doc >\nbroken \xff\n</doc>\n")
    refused(r"bad\.txt is not UTF-8 at byte", tmp_path / "s", [str(folder)], tokenizer, workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_bytes_that_are_not_utf8_can_be_replaced(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"fine\nbroken \xff\n")
    refused("is not UTF-8 at byte 12", tmp_path / "s", tmp_path / "bad.txt", tokenizer, workers=1)
    report = prepare(
        tmp_path / "bad.txt", tokenizer, tmp_path / "s", workers=1, eval_fraction=0, encoding_errors="replace"
    )
    assert report["sentences"] == 2


# --- the pool ---------------------------------------------------------------------------------------------------------


def set_mark(value: str) -> None:
    os.environ["POOL_TEST_MARK"] = value


def work(number: int) -> tuple[int, str, int]:
    if number == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == -2:
        raise BertJaxError("a clear line")
    if number == -3:
        raise KeyError("a bug")
    print("what libraries print does no harm")
    return number * 2, os.environ["POOL_TEST_MARK"], os.getpid()


def run_pool(numbers: list[int], workers: int) -> list[tuple[int, tuple[int, str, int]]]:
    return sorted(map_unordered(set_mark, ("ready",), work, [(number,) for number in numbers], workers))


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("POOL_TEST_MARK", "")


@pytest.mark.usefixtures("_importable")
def test_the_pool_answers_every_task_once() -> None:
    results = run_pool(list(range(9)), workers=2)
    assert [(index, result[:2]) for index, result in results] == [(index, (2 * index, "ready")) for index in range(9)]
    assert os.getpid() not in {result[2] for _, result in results}
    assert run_pool([], workers=2) == []


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (-1, BertJaxError, r"^a worker process was killed by SIGKILL \(out of memory\?\)"),
        (-2, BertJaxError, "^a clear line$"),
        (-3, RuntimeError, "a bug"),
    ],
)
def test_the_pool_tells_what_went_wrong(number: int, kind: type[Exception], message: str) -> None:
    linux = sys.platform.startswith("linux")
    before = set(children_of(os.getpid())) if linux else set()  # other tests' own, such as multiprocessing's tracker
    with pytest.raises(kind, match=message):
        run_pool([1, number, 2, 3], workers=2)
    if linux:
        assert set(children_of(os.getpid())) <= before


_OWNER = """
import time
from bert_jax.data.pool import map_unordered
for _ in map_unordered(print, (), time.sleep, [(0,), (300,)], 2):
    print("one is done", flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")
def test_workers_busy_or_idle_end_with_their_owner() -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"one is done\n"
    children = children_of(owner.pid)
    assert len(children) == 2
    owner.kill()
    owner.communicate()
    wait_until(lambda: not any(map(is_alive, children)))


def test_the_summary_is_told(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level("INFO", logger=logger.name):
        prepare([[["the same", "the same"], ["alone"]]], tokenizer, tmp_path / "s", workers=1, eval_fraction=0)
    assert "2 documents to train on" in caplog.text
    assert "nats" in caplog.text
    assert [record.getMessage()[:8] for record in caplog.records if record.levelname == "WARNING"] == ["warning:"] * 2
