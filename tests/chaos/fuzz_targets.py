"""What is fuzzed: real files, or ones this package writes, and the reader that each is fed to."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent.parent)]

Build = Callable[[Path, Path], None]
"""(folder, data): put the undamaged files into the folder."""
Feed = Callable[[Path], Any]
"""(folder): read them, and use what was read as the package would."""


class Target(NamedTuple):
    """One kind of input. `files`: patterns of the files that are damaged (default: any)."""

    build: Build
    feed: Feed
    files: tuple[str, ...] = ("**/*",)
    group: str = "readers"


def head(path: Path, size: int) -> bytes:
    """The first whole lines of a real file."""
    data = path.read_bytes()[: size + 1]
    return data if len(data) <= size else data[: data.rfind(b"\n", 0, size) + 1]


# --- sources ----------------------------------------------------------------------------------------------------------


def _feed_source(path: Path) -> int:
    from bert_jax.data.sources import open_source

    count = 0
    for errors in ("strict", "replace"):
        source = open_source(path, encoding_errors=errors, unit_bytes=4096)  # type: ignore[arg-type]
        source.fingerprint()
        for document in source:
            assert document and all(isinstance(text, str) and text.strip() for text in document), document
            "\n".join(document).encode()  # no half characters
            count += 1
    return count


def _source(name: str, origin: str, change: Callable[[bytes], bytes] = bytes) -> Target:
    def build(folder: Path, data: Path) -> None:
        (folder / name).write_bytes(change(head(data / origin, 20_000)))

    return Target(build, lambda folder: _feed_source(folder / name), group="sources")


def _json_lines(text: bytes) -> bytes:
    lines = [line.decode() for line in text.split(b"\n") if line.strip()]
    records = [{"title": lines[0], "text": "\n".join(lines[at : at + 5])} for at in range(0, len(lines), 5)]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _zstd(text: bytes) -> bytes:
    import zstandard

    return zstandard.compress(text[:8000]) + zstandard.compress(text[8000:])


def _parquet(text: bytes) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    lines = text.decode().splitlines()
    pq.write_table(pa.table({"text": lines, "n": list(range(len(lines)))}), sink, row_group_size=50)
    return sink.getvalue().to_pybytes()


# --- tokenizers -------------------------------------------------------------------------------------------------------


def _feed_tokenizer(folder: Path) -> str:
    from hostile import check_tokenizer

    from bert_jax.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer)
    again = folder.parent / "saved"
    shutil.rmtree(again, ignore_errors=True)
    tokenizer.save(again)
    assert load_tokenizer(again).fingerprint == tokenizer.fingerprint, "it is another one once saved"
    return tokenizer.fingerprint


def _build_wordpiece(folder: Path, data: Path) -> None:
    from bert_jax.text.tokenizer import WordPieceTokenizer

    lines = head(data / "vocab" / "bert_base_uncased.txt", 16_000).decode().split("\n")[:-1]
    tokenizer = WordPieceTokenizer(lines, cased=False)
    tokenizer.save(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"zebra": len(lines), "okapi": len(lines) + 1}))


def _build_tokenizer_json(folder: Path, data: Path) -> None:
    lines = head(data / "vocab" / "bert_base_uncased.txt", 16_000).decode().split("\n")[:-1]
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    values = {
        "version": "1.0",
        "added_tokens": [{"id": lines.index(piece), "content": piece, "special": True} for piece in specials],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "lowercase": True, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {line: at for at, line in enumerate(lines)}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(values))
    decoder = {str(lines.index(piece)): {"content": piece, "special": True} for piece in specials}
    config = {"tokenizer_class": "BertTokenizerFast", "added_tokens_decoder": decoder, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _build_words(folder: Path, data: Path) -> None:
    from small_models import WORDS

    from bert_jax.text.tokenizer import SPECIAL_PIECES, WordsTokenizer

    WordsTokenizer([*SPECIAL_PIECES.values(), *WORDS]).save(folder)


def _build_sentence_piece(folder: Path, data: Path) -> None:
    shutil.copy(data / "sentencepiece" / "albert_30k_clean.model", folder / "spiece.model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "AlbertTokenizer", "do_lower_case": true}')


# --- examples of tasks ------------------------------------------------------------------------------------------------

_TOKENIZERS: dict[str, Any] = {}


def _task(name: str, file: str, origin: str | bytes, size: int = 6_000, **settings: Any) -> Target:
    """A file of examples, read as `finetune` reads it and turned into rows."""

    def build(folder: Path, data: Path) -> None:
        content = origin if isinstance(origin, bytes) else head(data / origin, size)
        (folder / file).write_bytes(content)

    def feed(folder: Path) -> int:
        from small_models import small_tokenizer

        from bert_jax.errors import BertJaxError
        from bert_jax.finetune_config import TaskData, TaskOptions
        from bert_jax.tasks.examples import encode_all, read_splits
        from bert_jax.tasks.table import FORMS, find_task

        task = find_task(name)
        if "small" not in _TOKENIZERS:  # with pieces that relations are marked by
            _TOKENIZERS["small"] = small_tokenizer().with_lines([*small_tokenizer().lines, "$", "#"])
        tokenizer = _TOKENIZERS["small"]
        stopped = None
        for on_error in ("skip", "stop"):
            data = TaskData(train=(str(folder / file),), dev=(str(folder / file),), on_error=on_error, **settings)  # type: ignore[arg-type]
            try:
                splits = read_splits(task, data)
                train = [item for item in splits["train"].examples if FORMS[task.head].labelled(item)]
                labels = FORMS[task.head].labels_of(train) if task.labels is None else task.labels
                form = FORMS[task.head](tokenizer, labels, TaskOptions(name=name, length=96, doc_stride=32))
                for part in ("train", "dev"):
                    encode_all(splits[part], form, data, labelled=True)
                form.check(splits["train"].examples, splits["dev"].examples)
            except BertJaxError as error:
                stopped = error
        if stopped is not None:
            raise stopped
        return len(splits)

    return Target(build, feed, group="tasks")


def _squad(data: bytes, articles: int = 1) -> bytes:
    values = json.loads(data)
    kept = values["data"][:articles]
    for article in kept:
        article["paragraphs"] = article["paragraphs"][:4]
    return json.dumps({**values, "data": kept}).encode()


def _squad_target(name: str, origin: str) -> Target:
    task = _task(name, "train.json", b"")

    def build(folder: Path, data: Path) -> None:
        (folder / "train.json").write_bytes(_squad((data / origin).read_bytes()))

    return task._replace(build=build)


_SWAG = "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n" + "".join(
    f'v{at},{at},A dog. It,A dog.,It,gold,runs {at}.,"sits, then sleeps",barks,"says ""no""",{at % 4}\n'
    for at in range(40)
)
_SETS = "".join(json.dumps({"text": f"the cat {at}", "labels": ["a", "b"][: at % 3]}) + "\n" for at in range(40))
_PAIRS = "".join(json.dumps({"a": f"the cat {at}", "b": f"a dog {at}", "score": at / 40}) + "\n" for at in range(40))
_TAGGED = "".join(
    json.dumps({"words": ["the", "cat", f"{at}"], "tags": ["O", "B-X", "I-X"], "document": at // 4}) + "\n"
    for at in range(40)
)
_COMMAS = "id,sentence,label\n" + "".join(f'{at},"the cat, {at}",{"yes" if at % 2 else "no"}\n' for at in range(40))
_OFFSETS = "".join(
    json.dumps({"text": f"the cat sat {at}", "first": [0, 3], "second": [4, 7], "label": "of" if at % 2 else "in"})
    + "\n"
    for at in range(40)
)
_SEMEVAL = "".join(
    f'{at}\t"The <e1>cat</e1> has {at} <e2>paws</e2>."\nComponent-Whole(e2,e1)\nComment: none\n\n'
    for at in range(1, 40)
)


# --- models, stores, runs ---------------------------------------------------------------------------------------------


def _feed_config(folder: Path) -> int:
    from bert_jax.bert_config import BertConfig
    from bert_jax.errors import BertJaxError

    failure = None
    for path in sorted(folder.iterdir()):
        for dialect in (None, "google", "huggingface"):
            try:
                config = BertConfig.from_json_file(path, dialect)  # type: ignore[arg-type]
                config.to_json_string()
                hash(config), repr(config), config.head_size
            except BertJaxError as error:
                failure = error
    if failure is not None:
        raise failure
    return 1


def _build_configs(folder: Path, data: Path) -> None:
    from small_models import small_config

    shutil.copy(data / "tf1_tiny" / "bert_config.json", folder / "bert_config.json")
    (folder / "config.json").write_text(small_config().to_json_string("huggingface"))


def _feed_model(folder: Path) -> int:
    from bert_jax.formats.model import load_model, parse_spec

    parse_spec(str(folder))
    loaded = load_model(folder)
    return len(loaded.params)


def _build_hugging_face(folder: Path, data: Path) -> None:
    from small_models import HEADS, small_config, small_parameters, small_tokenizer

    from bert_jax.formats.hugging_face import save_tokenizer, write_model_directory
    from bert_jax.formats.pooling import Pooling

    pooling = Pooling(prompts={"query": "find: "}, default_prompt="query", max_length=64)
    write_model_directory(folder, small_config(), small_parameters(), HEADS, pooling=pooling)
    save_tokenizer(folder, small_tokenizer(), 64)


def _build_parts(folder: Path, data: Path) -> None:
    from safetensors.numpy import load_file, save_file

    _build_hugging_face(folder, data)
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(arrays)}
    for part in set(parts.values()):
        save_file({name: arrays[name] for name in arrays if parts[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))


def _build_flax(folder: Path, data: Path) -> None:
    from checkpoints import arrays, parameters
    from flax import serialization

    from bert_jax.model.parameters import unflatten

    _build_hugging_face(folder, data)
    (folder / "model.safetensors").unlink()
    tree = unflatten(arrays(parameters(), "flax"))
    (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))


_TF1 = ("bert_config.json", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "vocab.txt")


def _build_tf1(folder: Path, data: Path) -> None:
    for name in _TF1:
        shutil.copyfile(data / "tf1_tiny" / name, folder / name)


def _build_tf1_zip(folder: Path, data: Path) -> None:
    with zipfile.ZipFile(folder / "uncased_tiny.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _TF1:
            archive.write(data / "tf1_tiny" / name, f"uncased_tiny/{name}")


def _feed_tf1_zip(folder: Path) -> int:
    return _feed_model(folder / "uncased_tiny.zip")


def _build_store(folder: Path, data: Path) -> None:
    from small_models import small_tokenizer

    from bert_jax.data.store import write_store

    texts = ["the cat sat on the mat .", "a dog ran , it was tired !", "rain on the wet street"]
    documents = [[texts[(at + step) % 3] for step in range(1 + at % 4)] for at in range(30)]
    shutil.rmtree(folder)
    write_store(folder, documents, small_tokenizer(), eval_fraction=0.2, shards=2)


def _feed_store(folder: Path) -> int:
    from bert_jax.data.store import load_store, verify_once
    from bert_jax.text.tokenizer import load_tokenizer

    store = load_store(folder)
    store.verify()
    verify_once(store, folder.parent / "cache")
    load_tokenizer(store.tokenizer_path)
    total = 0
    for name in ("train", "eval"):
        for shard in store.split(name).shards:
            total += int(shard.tokens.sum()) + len(shard.sentence_ends) + len(shard.document_ends)
    return total


def _build_rows(folder: Path, data: Path) -> None:
    _feed_rows(folder)


def _feed_rows(folder: Path) -> int:
    import numpy as np

    from bert_jax.data.rows_file import RowsFile

    file = RowsFile(folder, "plan", 5)
    file.is_made(), file.count(lambda: 100)
    rows, sums = file.open(lambda sums: iter([np.arange(500, dtype=np.int32).reshape(100, 5)]))
    assert rows.shape == (100, 5) and int(rows.sum()) == 124_750 and sums["rows"] == 100
    return len(rows)


def _build_run(folder: Path, data: Path) -> None:
    from small_models import small_run

    shutil.rmtree(folder)
    run = small_run(folder, {1: 2.0, 2: 1.5})
    run.record("note", step=1)
    lines = [{"step": step, "loss": 1 / step, "time": 1.0} for step in range(1, 4)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _feed_run(folder: Path) -> int:
    from bert_jax.formats.model import load_model
    from bert_jax.train.metrics import read_metrics, truncate
    from bert_jax.train.run import open_run
    from bert_jax.train.saved_steps import best_step, damaged_directories, step_directories

    run = open_run(folder)
    read_metrics(run.metrics)
    best_step(step_directories(run.checkpoints)), damaged_directories(run.checkpoints), run.newest_step
    truncate(run.metrics, 2)
    load_model(f"{folder}@best")
    return len(load_model(folder).params)


def _build_finetuned(folder: Path, data: Path) -> None:
    import numpy as np
    from small_models import small_parameters, small_tokenizer

    from bert_jax.bert_config import BertConfig
    from bert_jax.finetune_config import FinetuneConfig, TaskData
    from bert_jax.model.parameters import flatten
    from bert_jax.train.best import Course, write_best
    from bert_jax.train.run import create_run

    model = BertConfig(
        vocab_size=len(small_tokenizer().lines),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    facts = {
        "model": model.to_dict(),
        "task": {
            "name": "classification",
            "form": "classification",
            "labels": ["cat", "dog"],
            "options": {"name": "classification", "length": 16},
        },
        "head": {"name": "classification", "classes": 2, "pooler": True},
        "members": ["seed-0"],
        "groups": [["seed-0"]],
    }
    shutil.rmtree(folder)
    config = FinetuneConfig(data=TaskData(train=("train.tsv",)))
    run = create_run(folder, config, small_tokenizer(), {"tokenizer": "t"}, {"dtype": "float32"}, facts=facts)
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(small_parameters(0, ("classification",))).items()}
    write_best(run.path / "models", "seed-0", leaves, Course(best=0.5, step=3, scores={"accuracy": 0.5}))


def _feed_finetuned(folder: Path) -> int:
    import bert_jax
    from bert_jax.infer.by_form import form_of

    bert = bert_jax.load(folder)
    return len(form_of(bert, ("classification",), "classify").labels)


def _build_inputs(folder: Path, data: Path) -> None:
    values = [
        "the cat",
        ["a", "b"],
        {"text": "x", "label": "y"},
        {"a": "b", "b": "c"},
        {"text": "q", "context": "c"},
    ]
    (folder / "inputs.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values * 5))


def _feed_inputs(folder: Path) -> int:
    from bert_jax.errors import BertJaxError
    from bert_jax.infer.verbs import VERBS, _object_of, inputs_of_file

    failure = None
    for task in VERBS:
        try:
            list(inputs_of_file(f"{folder / 'inputs.jsonl'}", task))
            for line in (folder / "inputs.jsonl").read_text("utf-8", "replace").split("\n"):
                _object_of(line)
        except BertJaxError as error:
            failure = error
    if failure is not None:
        raise failure
    return 1


_SAMPLE = "corpus/sample_text.txt"
TARGETS: dict[str, Target] = {
    "text": _source("source.txt", _SAMPLE),
    "wiki": _source("source_wiki", "corpus/enwiki/AA_wiki_02.txt"),
    "jsonl": _source("source.jsonl", _SAMPLE, _json_lines),
    "gzip": _source("source.txt.gz", _SAMPLE, gzip.compress),
    "bzip2": _source("source.txt.bz2", _SAMPLE, bz2.compress),
    "xz": _source("source.txt.xz", _SAMPLE, lzma.compress),
    "zstd": _source("source.txt.zst", _SAMPLE, _zstd),
    "parquet": _source("source.parquet", _SAMPLE, _parquet),
    "wordpiece": Target(_build_wordpiece, _feed_tokenizer, group="tokenizers"),
    "tokenizer_json": Target(_build_tokenizer_json, _feed_tokenizer, group="tokenizers"),
    "words": Target(_build_words, _feed_tokenizer, group="tokenizers"),
    "sentencepiece": Target(_build_sentence_piece, _feed_tokenizer, group="tokenizers"),
    "cola": _task("cola", "train.tsv", "glue/CoLA/train.tsv"),
    "sst2": _task("sst2", "train.tsv", "glue/SST-2/train.tsv"),
    "mrpc": _task("mrpc", "train.tsv", "glue/MRPC/msr_paraphrase_train.txt"),
    "stsb": _task("stsb", "train.tsv", "glue/STS-B/train.tsv"),
    "csv": _task("classification", "train.csv", _COMMAS.encode()),
    "label_sets": _task("multi_label", "train.jsonl", _SETS.encode()),
    "similarity": _task("similarity", "train.jsonl", _PAIRS.encode()),
    "conll": _task("ner", "train.conll", "zh/weibo_ner/weiboNER_2nd_conll.train"),
    "tagged_words": _task("ner", "train.jsonl", _TAGGED.encode()),
    "spans": _task("spans", "train.json", b""),
    "tagged_spans": _task("span_tagging", "train.json", b""),
    "relation": _task("relation", "train.tsv", "relation/train.tsv"),
    "offsets": _task("relation", "train.jsonl", _OFFSETS.encode()),
    "semeval": _task("semeval", "train.txt", _SEMEVAL.encode()),
    "squad": _squad_target("squad2", "squad/dev-v2.0.json"),
    "cmrc": _squad_target("cmrc", "zh/cmrc2018/cmrc2018_dev.json"),
    "swag": _task("swag", "train.csv", _SWAG.encode()),
    "codah": _task("codah", "train.tsv", "choice/train.tsv"),
    "config": Target(_build_configs, _feed_config, group="models"),
    "model": Target(_build_hugging_face, _feed_model, group="models"),
    "safetensors": Target(_build_hugging_face, _feed_model, ("model.safetensors", "config.json"), group="models"),
    "parts": Target(_build_parts, _feed_model, ("model*",), group="models"),
    "flax": Target(_build_flax, _feed_model, ("flax_model.msgpack", "config.json"), group="models"),
    "tf1": Target(_build_tf1, _feed_model, group="tf1"),
    "tf1_zip": Target(_build_tf1_zip, _feed_tf1_zip, group="tf1"),
    "store": Target(_build_store, _feed_store, group="runs"),
    "plan": Target(_build_rows, _feed_rows, group="runs"),
    "run": Target(_build_run, _feed_run, group="runs"),
    "finetuned": Target(_build_finetuned, _feed_finetuned, group="runs"),
    "inputs": Target(_build_inputs, _feed_inputs),
}


def _build_cluener(folder: Path, data: Path) -> None:
    decoder, text = json.JSONDecoder(), (data / "zh" / "cluener" / "dev.json").read_text("utf-8")
    position, kept = 0, []
    for _ in range(30):
        value, position = decoder.raw_decode(text, position + len(text[position:]) - len(text[position:].lstrip()))
        kept.append(json.dumps(value, ensure_ascii=False))
    (folder / "train.json").write_text("\n".join(kept), "utf-8")


for _name in ("spans", "tagged_spans"):
    TARGETS[_name] = TARGETS[_name]._replace(build=_build_cluener)


def damageable(folder: Path, target: Target) -> list[Path]:
    """The files of an undamaged folder that the target wants damaged, in order."""
    return sorted({path for pattern in target.files for path in folder.glob(pattern) if path.is_file()})


def data_folder() -> Path:
    """The folder of real files."""
    default = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "data"
    return Path(os.environ.get("BERT_JAX_TEST_DATA", default))
