"""Fine-tuning beside transformers: the files of each task as rows that both sides share, and torch's heads on them."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import small_config, small_run
from test_peers import load

from bert_jax.tasks.batches import Part, make_batch

tasks = load("finetune_tasks")
CONTEXT = "cat sat on the mat . the dog ran on the road ."


def questions(contexts: int, titles: tuple[str, ...]) -> dict[str, Any]:
    """Two questions about each context, one of them without an answer; contexts differ."""
    data: list[dict[str, Any]] = []
    for title in titles:
        paragraphs = []
        for number in range(contexts):
            context = f"{CONTEXT}{' wet' * number}"
            answer = {"text": "mat", "answer_start": context.index("mat")}
            pair = [
                {"id": f"{title}{number}a", "question": "it sat on ?", "answers": [answer], "is_impossible": False},
                {"id": f"{title}{number}b", "question": "was it wet ?", "answers": [], "is_impossible": True},
            ]
            paragraphs.append({"context": context, "qas": pair})
        data.append({"title": title, "paragraphs": paragraphs})
    return {"version": "v2.0", "data": data}


def write_sets(folder: Path) -> Path:
    """The files of one task of every head, tiny."""
    texts = {
        "glue/CoLA/train.tsv": "x\t1\t\tthe cat sat\nx\t0\t*\tsat cat the on\nx\t1\t\tit ran\n" * 4,
        "glue/CoLA/dev.tsv": "x\t1\t\tthe dog sat\nx\t0\t*\tran dog the\n",
        "choice/train.tsv": "o\tthe cat\tsat .\tthe !\ton a\ta\t0\no\tthe dog\ta\tran on the road .\t!\t,\t1\n" * 4,
        "choice/test.tsv": "o\tthe cat\tsat .\tthe !\ton a\ta\t0\n",
        "zh/weibo_ner/weiboNER_2nd_conll.train": "the\tO\ncat\tB-A\nsat\tO\n\ndog\tB-A\nplaying\tI-A\n\n" * 4,
        "zh/weibo_ner/weiboNER_2nd_conll.test": "a\tO\ndog\tB-A\nplaying\tI-A\n",
        "squad/cs224n-dev-v2.0.json": json.dumps(questions(40, ("inside",))),
        "squad/dev-v2.0.json": json.dumps(questions(2, ("inside", "outside"))),
        "squad/article_split.json": json.dumps({"v2.0": {"articles_outside": ["outside"]}}),
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = small_run(tmp_path_factory.mktemp("start") / "run", {10: None})
    return str(run.path)


def shared_of(task: str, folder: Path, start: str, work: Path) -> Any:
    peer = tasks.TASKS[task]
    train, scored, settings = tasks.files_of(peer, folder, None, work)
    options = ["--task.length", "48", "--task.query-length", "8", "--finetune.batch", "8"]
    return tasks.Shared(peer, [*settings, *tasks.settings_of(peer, train, scored), *options], start)


def right_logits(shared: Any, name: str) -> np.ndarray:
    """Logits that say what is right in each row, by which the shared code has to come to a full score."""
    flat = [row for own in shared.parts[name][1] for row in own]
    found = []
    for row in flat:
        if "answer_begin" in row.targets:
            logits = np.zeros((row.length, 2), np.float32)
            logits[row.targets["answer_begin"], 0] = logits[row.targets["answer_end"], 1] = 9.0
        elif shared.peer.head == "choice":
            logits = 9.0 * np.eye(len(row.ids), dtype=np.float32)[row.targets["label"]][:, None]
        else:
            logits = 9.0 * np.eye(shared.form.classes, dtype=np.float32)[np.maximum(row.targets["labels"], 0)]
        found.append(logits)
    return np.concatenate(found) if shared.peer.head in ("token", "span") else np.stack(found)


COMPARED = ("cola", "codah", "weibo", "squad2")


@pytest.mark.parametrize("task", COMPARED)
def test_right_logits_have_the_full_score_and_wrong_ones_have_not(
    task: str, folder: Path, start: str, tmp_path: Path
) -> None:
    shared = shared_of(task, folder, start, tmp_path)
    shared.write(tmp_path / "rows.npz")
    arrays = np.load(tmp_path / "rows.npz")
    logits = {name: right_logits(shared, name) for name in shared.parts if name != "train"}
    full = 100.0 if shared.peer.percent else 1.0
    assert shared.scores(logits)[shared.task.score] == pytest.approx(full)
    wrong = shared.scores({name: -values for name, values in logits.items()})
    assert (wrong[shared.task.score] or 0.0) < full
    for name in shared.parts:
        rows = [row for own in shared.parts[name][1] for row in own]
        assert arrays[f"{name}_lengths"].tolist() == [[len(ids) for ids in row.ids] for row in rows]
        assert len(arrays[f"{name}_ids"]) == arrays[f"{name}_lengths"].sum() == len(arrays[f"{name}_segments"])


def test_what_is_scored_is_kept_apart(folder: Path, start: str, tmp_path: Path) -> None:
    """SQuAD's threshold is tuned on contexts held out of train; only articles that train has none of are scored."""
    shared = shared_of("squad2", folder, start, tmp_path)
    train, dev, test = (shared.parts[name][0] for name in ("train", "dev", "test"))
    assert len(train) + len(dev) == 80
    assert dev
    assert not {example.context for example in train} & {example.context for example in dev}
    assert {example.id[:7] for example in test} == {"outside"}
    logits = {name: right_logits(shared, name) for name in ("dev", "test")}
    tuned = shared.scores(logits)
    assert "no_answer_threshold" not in tuned  # it was taken, not tuned on what is scored
    lengths = [row.length for own in shared.parts["dev"][1] for row in own]
    logits["dev"][np.cumsum([0, *lengths[:-1]])] += 100.0  # [CLS] of dev: its threshold is too high for test now
    assert shared.scores(logits)["no_answer_accuracy"] == 0.0


def test_the_baseline_is_what_is_commonest_in_training(folder: Path, start: str, tmp_path: Path) -> None:
    found = {}
    for task in COMPARED:
        (tmp_path / task).mkdir()
        found[task] = shared_of(task, folder, start, tmp_path / task).baseline()
    assert found["cola"] == ("always 'acceptable', the commonest label", 0.0)
    assert found["codah"] == ("always choice 0, the one most often right", 1.0)
    assert found["weibo"] == ("no entity anywhere", 0.0)
    assert found["squad2"] == ("never an answer", 50.0)


def test_fewer_examples_are_cut_in_the_file_or_by_a_setting(folder: Path, tmp_path: Path) -> None:
    train, _, settings = tasks.files_of(tasks.TASKS["codah"], folder, 3, tmp_path)
    assert len(train.read_text().splitlines()) == 3
    assert not settings
    train, _, settings = tasks.files_of(tasks.TASKS["weibo"], folder, 3, tmp_path)
    assert train == folder / tasks.TASKS["weibo"].train
    assert settings == ["--data.examples", "3"]
    (tmp_path / "split.json").write_text('{"v2.0": {"articles_outside": ["elsewhere"]}}')
    with pytest.raises(SystemExit, match="has not all of the articles"):
        tasks.write_articles(folder / "squad/dev-v2.0.json", tmp_path / "split.json", tmp_path / "out.json")


@pytest.mark.parametrize("task", COMPARED)
def test_heads_of_transformers_learn_from_the_rows_as_ours_do(
    task: str, folder: Path, start: str, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peer = load("finetune_torch")
    shared = shared_of(task, folder, start, tmp_path)
    shared.write(tmp_path / "rows.npz")
    arrays = dict(np.load(tmp_path / "rows.npz"))
    rows, head = peer.Rows(arrays, "train"), peer.HEADS[shared.peer.head]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **small_config().to_dict() | {"hidden_act": "gelu", "num_labels": shared.form.classes}
    )
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = getattr(transformers, head.model)(config).eval()

    # Of rows of one length: transformers takes the padding of a question's row for places of the answer.
    flat = [row for own in shared.parts["train"][1] for row in own]
    chosen = [index for index, row in enumerate(flat) if row.length == flat[0].length][:6]
    logits = peer.logits_of(model, head, rows, 4)
    theirs = model(**rows.batch(chosen), **head.targets(rows, chosen)).loss.item()
    each = np.split(logits, rows.ends) if head.per_token else logits
    batch = make_batch(flat, Part(flat[0].length, np.asarray(chosen)), len(chosen), len(flat[0].ids), shared.form)
    named = {f"{shared.form.head}_logits": np.stack([each[index] for index in chosen])}
    ours = np.asarray(shared.form.loss(named, batch))  # type: ignore[arg-type]
    assert np.average(ours, weights=batch["weights"]) == pytest.approx(theirs, rel=1e-5)

    recipe = Namespace(weight_decay=0.0, learning_rate=1e-2, eps=1e-6, batch=8, epochs=20, warmup=0.1, clip_norm=1.0)
    assert peer.train(model.train(), head, rows, recipe) < 0.8 * theirs
    parts = [name for name in shared.parts if name != "train"]
    found = {name: peer.logits_of(model.eval(), head, peer.Rows(arrays, name), 4) for name in parts}
    assert shared.scores(found)[shared.task.score] is not None
