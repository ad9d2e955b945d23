"""Readers of texts and pairs: the published files whole, TensorFlow Datasets, tables of one's own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tfds_sets import write_set

from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import TaskData
from bert_jax.tasks import columns
from bert_jax.tasks.glue import LAYOUTS, read_classes, read_label_sets, read_scores, reader_of
from bert_jax.tasks.similarity import read_similar
from bert_jax.tasks.task import TextExample

DATA = TaskData()


@pytest.mark.parametrize(
    ("task", "file", "count", "labels"),
    [
        ("cola", "glue/CoLA/train.tsv", 7250, {"acceptable": 5088, "unacceptable": 2162}),
        ("cola", "glue/CoLA/val.tsv", 1301, {"acceptable": 935, "unacceptable": 366}),
        ("cola", "glue/CoLA/dev.tsv", 1043, {"acceptable": 721, "unacceptable": 322}),
        ("sst2", "glue/SST-2/train.tsv", 67349, {"positive": 37569, "negative": 29780}),
        ("sst2", "glue/SST-2/dev.tsv", 872, {"positive": 444, "negative": 428}),
        ("sst2", "glue/SST-2/test.tsv", 1821, {None: 1821}),
        ("mrpc", "glue/MRPC/msr_paraphrase_train.txt", 4076, {"equivalent": 2753, "not_equivalent": 1323}),
        ("mrpc", "glue/MRPC/msr_paraphrase_test.txt", 1725, {"equivalent": 1147, "not_equivalent": 578}),
        ("rte", "glue/RTE/train.tsv", 2127, {"entailment": 1078, "not_entailment": 1049}),
        ("rte", "glue/RTE/val.tsv", 363, {"entailment": 171, "not_entailment": 192}),
        ("rte", "glue/RTE/dev.tsv", 277, {"entailment": 146, "not_entailment": 131}),
        ("wnli", "glue/WNLI/train.tsv", 518, {"entailment": 261, "not_entailment": 257}),
        ("wnli", "glue/WNLI/val.tsv", 117, {"entailment": 51, "not_entailment": 66}),
        ("wnli", "glue/WNLI/dev.tsv", 71, {"entailment": 31, "not_entailment": 40}),
        ("chnsenticorp", "zh/chnsenticorp/train.tsv", 9600, {"negative": 4801, "positive": 4799}),
        ("chnsenticorp", "zh/chnsenticorp/dev.tsv", 1200, {"negative": 607, "positive": 593}),
        ("lcqmc", "zh/lcqmc/dev.txt", 8802, {"same": 4402, "different": 4400}),
        ("lcqmc", "zh/lcqmc/test.txt", 12500, {"same": 6250, "different": 6250}),
    ],
)
def test_published_files_whole(data_dir: Path, task: str, file: str, count: int, labels: dict) -> None:
    examples = list(reader_of(task)(str(data_dir / file), DATA))
    assert len(examples) == count
    assert Counter(example.label for example in examples) == labels
    assert all(example.a.strip() and (example.b is None) == (LAYOUTS[task].pair is None) for example in examples)


def test_published_scores(data_dir: Path) -> None:
    read = reader_of("stsb")
    train = list(read(str(data_dir / "glue/STS-B/train.tsv"), DATA))
    dev = list(read(str(data_dir / "glue/STS-B/dev.tsv"), DATA))
    test = list(read(str(data_dir / "glue/STS-B/test.tsv"), DATA))
    assert (len(train), len(dev), len(test)) == (5749, 1500, 1379)
    assert (dev[0].a, dev[0].b, dev[0].label) == (
        "A man with a hard hat is dancing.",
        "A man wearing a hard hat is dancing.",
        5.0,
    )
    assert min(e.label for e in dev) == 0 and max(e.label for e in train) == 5  # type: ignore[type-var]
    assert {example.label for example in test} == {None}
    similar = list(read_similar(str(data_dir / "glue/STS-B/dev.tsv"), DATA))
    assert [(e.texts, e.score) for e in similar] == [((e.a, e.b), e.label / 5) for e in dev]  # type: ignore[operator]


def test_texts_are_those_of_the_files(data_dir: Path) -> None:
    quoted = next(reader_of("mrpc")(str(data_dir / "glue/MRPC/msr_paraphrase_train.txt"), DATA))
    assert (
        quoted.a == 'Amrozi accused his brother, whom he called "the witness", of deliberately distorting his evidence.'
    )
    assert quoted.b is not None and quoted.b.startswith('Referring to him as only "the witness", Amrozi')
    starred = list(reader_of("cola")(str(data_dir / "glue/CoLA/val.tsv"), DATA))[2]
    assert (starred.a, starred.label) == ("The car honked down the road.", "unacceptable")
    named = list(reader_of("rte")(str(data_dir / "glue/RTE/train.tsv"), DATA))[-1]
    assert named.id != "2126" and named.id.isdecimal()  # the file's own index, which has gaps


def test_mnli_of_both_widths(tmp_path: Path) -> None:
    names = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"]
    names += ["sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1"]
    for name, more in (("train", []), ("dev", ["label2", "label3", "label4", "label5"])):
        header = [*names, *more, "gold_label"]
        values = [str(number) for number in range(len(header) - 1)] + ["neutral"]
        for head in ("\t".join(header) + "\n", ""):
            path = tmp_path / f"{name}.tsv"
            path.write_text(head + "\t".join(values) + "\n")
            example = next(reader_of("mnli")(str(path), DATA))
            assert (example.a, example.b, example.label) == ("8", "9", "neutral")
    (tmp_path / "test.tsv").write_text("\t".join(names[:-1]) + "\n" + "\t".join(values[:10]) + "\n")
    assert next(reader_of("mnli")(str(tmp_path / "test.tsv"), DATA)).label is None


def test_qqp_and_qnli(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "qqp.tsv"
    path.write_text("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t1\t2\thow?\twhy?\t1\n8\t3\tbroken\n")
    read = reader_of("qqp")(str(path), TaskData(on_error="skip"))
    assert [(e.a, e.b, e.label, e.id) for e in read] == [("how?", "why?", "duplicate", "7")]
    assert "1 of 2 examples were left out; the first: " in caplog.text and "line 3 has 3 field(s)" in caplog.text
    path.write_text("id\tquestion1\tquestion2\n0\ta\tb\n")
    assert [(e.a, e.b, e.label) for e in reader_of("qqp")(str(path), DATA)] == [("a", "b", None)]
    path.write_text("index\tquestion\tsentence\tlabel\n0\tq\ts\tnot_entailment\n")
    assert [(e.a, e.b, e.label) for e in reader_of("qnli")(str(path), DATA)] == [("q", "s", "not_entailment")]


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("sst2", "x\t2", r"line 2 has label 2: expected 0 to 1, for negative, positive"),
        ("sst2", "x\t-1", r"line 2 has label -1: expected 0 to 1"),
        ("sst2", "x\tgood", r"line 2 has label 'good': expected one of negative, positive"),
        ("sst2", "x\t", r"line 2 has an empty label; mend it, or leave such lines out with --data.on-error skip"),
        ("sst2", "x", r"line 2 has 1 field\(s\): expected 2"),
    ],
)
def test_bad_labels(tmp_path: Path, task: str, line: str, message: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"sentence\tlabel\n{line}\n")
    with pytest.raises(BertJaxError, match=f"a.tsv, {message}"):
        list(reader_of(task)(str(path), DATA))


def test_bad_scores(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    for score, message in (("5.5", "has score 5.5: expected 0 to 5"), ("", "expected a number"), ("nan", "a number")):
        path.write_text(f"genre\tsentence1\tsentence2\tscore\nx\ta\tb\t{score}\n")
        for read in (reader_of("stsb"), read_similar):
            with pytest.raises(BertJaxError, match=f"a.tsv, line 2 .*{message}"):
                list(read(str(path), DATA))


def test_tables_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('id,review,stars,reply\n5,"good, really",4,thanks\n')
    data = TaskData(text="review", label="stars")
    assert list(read_classes(str(path), data)) == [
        TextExample(a="good, really", label="4", id="5", place=f"{path}, line 2")
    ]
    paired = next(read_scores(str(path), TaskData(text="1", pair="reply", label="stars")))
    assert (paired.a, paired.b, paired.label) == ("good, really", "thanks", 4.0)
    numbered = next(read_classes(str(path), TaskData(text="3", label="2", header=True)))
    assert (numbered.a, numbered.label) == ("thanks", "4")
    with pytest.raises(BertJaxError, match=r"no column 'text' or .* \(text\): it has id, review, stars, reply"):
        list(read_classes(str(path), DATA))


def test_objects_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"a": "x", "b": "y", "label": -1},
        {"a": "x", "label": True},
        {"a": "x", "b": "y", "label": "7"},
        {"a": "x", "label": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(e.b, e.label) for e in read_classes(str(path), DATA)] == [
        ("y", "-1"),
        (None, "true"),
        ("y", "7"),
        (None, None),
    ]
    path.write_text(
        '{"text": "x", "labels": ["b", "a", "b"]}\n{"text": "x", "labels": []}\n{"text": "x", "labels": 3}\n'
    )
    assert [e.label for e in read_label_sets(str(path), DATA)] == [("b", "a"), (), ("3",)]
    path.write_text('{"text": "x", "labels": ["b", null]}\n')
    with pytest.raises(BertJaxError, match="line 1 has null among its labels"):
        list(read_label_sets(str(path), DATA))
    path.write_text('{"text": "x", "label": 0.5}\n{"text": "x", "label": "0.25"}\n')
    assert [e.label for e in read_scores(str(path), DATA)] == [0.5, 0.25]
    with pytest.raises(BertJaxError, match="line 1 has 0.5 for the label: expected a name"):
        list(read_classes(str(path), DATA))


def test_pairs_triples_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"anchor": "x", "positive": "y", "negative": "z"}\n{"anchor": "x", "positive": "y"}\n'
        '{"a": "x", "b": "y", "score": 0.5}\n'
    )
    found = [(e.texts, e.score) for e in read_similar(str(path), DATA)]
    assert found == [(("x", "y", "z"), None), (("x", "y"), None), (("x", "y"), 0.5)]
    path.write_text('{"a": "x", "b": "y", "score": 3}\n')
    with pytest.raises(BertJaxError, match="line 1 has score 3: expected 0 to 1"):
        list(read_similar(str(path), DATA))
    path.write_text('{"a": "x"}\n')
    with pytest.raises(BertJaxError, match="line 1 has no field 'positive' or 'b'"):
        list(read_similar(str(path), DATA))


# --- TensorFlow Datasets ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`local/mnli`, `local/stsb` and `own/plain` with two examples in each split, and one without a label."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    text, number = tfds.features.Text(), tf.int32
    classes = tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"])
    mnli = tfds.features.FeaturesDict({"premise": text, "hypothesis": text, "label": classes, "idx": number})
    rows = [{"premise": f"p{i}", "hypothesis": "é", "label": i, "idx": 10 + i} for i in (2, 0)]
    unknown = [{"premise": "p", "hypothesis": "h", "label": -1, "idx": 0}]
    write_set(root, "local", "mnli", mnli, {"train": rows, "test_matched": unknown})
    stsb = tfds.features.FeaturesDict({"sentence1": text, "sentence2": text, "label": tf.float32, "idx": number})
    scored = [{"sentence1": "a", "sentence2": "b", "label": score, "idx": 0} for score in (2.5, -1.0)]
    write_set(root, "local", "stsb", stsb, {"train": scored})
    plain = tfds.features.FeaturesDict(
        {"text": text, "stars": number, "image": tfds.features.Tensor(shape=(2,), dtype=tf.uint8)}
    )
    write_set(root, "own", "plain", plain, {"train": [{"text": "x", "stars": -1, "image": [1, 2]}]})
    return root


def test_tensorflow_datasets(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(sets))
    read = reader_of("mnli")
    assert list(read("tfds:local/mnli:train", DATA)) == [
        TextExample(a="p2", b="é", label="contradiction", id="12", place="tfds:local/mnli:train, example 0"),
        TextExample(a="p0", b="é", label="entailment", id="10", place="tfds:local/mnli:train, example 1"),
    ]
    assert [e.a for e in read("tfds:local/mnli:train[1:]", DATA)] == ["p0"]
    assert [e.label for e in read("tfds:local/mnli:test_matched", DATA)] == [None]
    assert [e.label for e in read_classes("tfds:local/mnli:train", TaskData(text="premise"))] == [
        "contradiction",
        "entailment",
    ]
    assert [e.label for e in reader_of("stsb")("tfds:local/stsb:train", DATA)] == [2.5, None]
    assert [e.label for e in read_classes("tfds:own/plain:train", TaskData(label="stars"))] == ["-1"]


def test_scores_of_glue_stsb_are_of_0_to_5(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": score} for score in (2.5, -1.0)]
    monkeypatch.setattr(columns, "tfds_rows", lambda spec: iter(enumerate(rows)))
    assert [e.score for e in read_similar("tfds:glue/stsb:train", DATA)] == [0.5, None]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:local/mnli", "expected tfds:NAME"),
        ("tfds:local/mnli:train:premise", "expected tfds:NAME"),
        ("tfds:local/mnli:nope", "no split 'nope'; it has train, test_matched"),
        ("tfds:none_such:train", "no data set 'none_such' in"),
        ("tfds:own/plain:train", r"tfds:own/plain:train, example 0 has no field 'sentence1' or .*: it has stars, text"),
    ],
)
def test_tensorflow_datasets_that_are_not_there(
    sets: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(sets))
    with pytest.raises(BertJaxError, match=message):
        list(reader_of("mnli")(spec, DATA))
