"""The tasks that `finetune.py` compares: their files, and their examples as rows and arrays that both sides share.

Files are looked for beneath one folder, `--data`, by the names that they are published under. Nothing is chosen by the
part that is scored: a run is scored after its last step, and what has to be tuned (when SQuAD 2.0's questions have no
answer) is tuned on examples held out of the training part, by either side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Scores = dict[str, float | None]


class Peer(NamedTuple):
    """One task: the shipped configuration, its files, and what transformers has for it."""

    config: str
    train: str
    scored: str
    head: str | None = "sequence"
    """The row of `finetune_torch.HEADS`; None where transformers has no such head, and ours stands alone."""
    header: bool | None = True
    """Whether the files' first line names columns; None for files whose examples are no lines."""
    chinese: bool = False
    """It starts from `--chinese-model`."""
    tuned: bool = False
    """A threshold is tuned on examples held out of `train`."""
    percent: bool = False
    """The official score is a percentage."""


TASKS = {
    "cola": Peer("finetune_cola", "glue/CoLA/train.tsv", "glue/CoLA/dev.tsv", header=False),
    "mrpc": Peer("finetune_mrpc", "glue/MRPC/msr_paraphrase_train.txt", "glue/MRPC/msr_paraphrase_test.txt"),
    "rte": Peer("finetune_rte", "glue/RTE/train.tsv", "glue/RTE/dev.tsv"),
    "stsb": Peer("finetune_stsb", "glue/STS-B/train.tsv", "glue/STS-B/dev.tsv"),
    "codah": Peer("finetune_codah", "choice/train.tsv", "choice/test.tsv", "choice", header=False),
    "squad2": Peer(
        "finetune_squad2",
        "squad/cs224n-dev-v2.0.json",
        "squad/dev-v2.0.json",
        "span",
        header=None,
        tuned=True,
        percent=True,
    ),
    "weibo": Peer(
        "finetune_weibo",
        "zh/weibo_ner/weiboNER_2nd_conll.train",
        "zh/weibo_ner/weiboNER_2nd_conll.test",
        "token",
        header=None,
        chinese=True,
    ),
    "cluener": Peer(
        "finetune_cluener", "zh/cluener/train.json", "zh/cluener/dev.json", "token", header=None, chinese=True
    ),
    "semeval": Peer("finetune_semeval", "relation/train.tsv", "relation/test.tsv", None, header=False),
    "cluener_pointers": Peer(
        "finetune_cluener_pointers", "zh/cluener/train.json", "zh/cluener/dev.json", None, header=None, chinese=True
    ),
}
GLUE = ("cola", "mrpc", "rte", "stsb")


# --- files ------------------------------------------------------------------------------------------------------------


def files_of(peer: Peer, data: Path, examples: int | None, folder: Path) -> tuple[Path, Path, list[str]]:
    """The files to train on and to be scored by, made in `folder` where they are cut, and settings that cut ours.

    Fewer `examples` are lines drawn by `draw_lines`, or the first ones where examples are no lines. Of SQuAD 2.0 only
    articles are scored that the training set, itself a part of its dev set, has none of.
    """
    train, scored, settings = data / peer.train, data / peer.scored, []
    if examples is not None and peer.header is not None:
        train = draw_lines(train, peer.header, examples, folder / f"train{train.suffix}")
    elif examples is not None:
        settings = ["--data.examples", str(examples)]
    if peer.tuned:
        scored = write_articles(scored, data / "squad/article_split.json", folder / "scored.json")
    return train, scored, settings


def draw_lines(source: Path, header: bool, examples: int | None, path: Path) -> Path:
    """`source`, or at `path` its header and as many of its lines, drawn once and for all, in their order."""
    if examples is None:
        return source
    first, *lines = source.read_bytes().rstrip(b"\n").split(b"\n")
    head = [first] if header else []
    lines = lines if header else [first, *lines]
    chosen = np.sort(np.random.default_rng(0).permutation(len(lines))[:examples])
    path.write_bytes(b"".join(line + b"\n" for line in [*head, *(lines[index] for index in chosen)]))
    return path


def write_articles(source: Path, split: Path, path: Path) -> Path:
    """The articles of SQuAD 2.0's dev set that `split` lists as outside of the training set, as a file of its form."""
    outside = set(json.loads(split.read_text())["v2.0"]["articles_outside"])
    value = json.loads(source.read_text())
    articles = [article for article in value["data"] if article["title"] in outside]
    if {article["title"] for article in articles} != outside:
        raise SystemExit(f"{source} has not all of the articles that {split} lists as outside")
    path.write_text(json.dumps(value | {"data": articles}))
    return path


def settings_of(peer: Peer, train: Path, scored: Path) -> list[str]:
    """The settings of one task that follow from its files. Where something is tuned, dev is held out of train."""
    files = ["--data.train", str(train)]
    files += ["--data.dev", "--data.test", str(scored)] if peer.tuned else ["--data.dev", str(scored), "--data.test"]
    return [*files, "--evaluate.every", str(10**9), "--checkpoint.every", str(10**9), "--log.no-tensorboard"]


# --- rows -------------------------------------------------------------------------------------------------------------


class Shared:
    """What both sides train on and are scored by: the examples of a task as our rows, and our metric."""

    def __init__(self, peer: Peer, settings: list[str], tokenizer: str):
        from bert_jax.config_files import load_config, override
        from bert_jax.finetune_config import FinetuneConfig
        from bert_jax.formats.model import open_model
        from bert_jax.tasks.examples import encode_all, read_splits
        from bert_jax.tasks.table import FORMS, find_task

        self.peer = peer
        self.config = override(load_config(peer.config, FinetuneConfig), settings)
        self.task = find_task(self.config.task.name)
        splits = read_splits(self.task, self.config.data)
        kind = FORMS[self.task.head]
        labels = self.task.labels or kind.labels_of(splits["train"].examples)
        self.form = kind(open_model(tokenizer).tokenizer, labels, self.config.task)
        self.parts = {name: encode_all(split, self.form, self.config.data) for name, split in splits.items()}
        self.scored = "test" if peer.tuned else "dev"

    def recipe(self) -> dict[str, Any]:
        """What the torch side is told, by the names of its options."""
        own, optimizer = self.config.finetune, self.config.optimizer
        return {
            "head": self.peer.head,
            "classes": self.form.classes,
            "epochs": own.epochs,
            "batch": own.batch,
            "learning_rate": optimizer.learning_rate,
            "warmup": optimizer.warmup,
            "weight_decay": optimizer.weight_decay,
            "eps": optimizer.eps,
            "clip_norm": optimizer.clip_norm,
        }

    def write(self, path: Path) -> None:
        """Rows of all parts as arrays: ids and segments end to end, lengths (N, K) of the K sequences of each row, and
        its targets, those of tokens end to end as well."""
        arrays: dict[str, np.ndarray] = {}
        for name, (_, rows) in self.parts.items():
            flat = [row for own in rows for row in own]
            for what in ("ids", "segments"):
                arrays[f"{name}_{what}"] = np.concatenate(
                    [np.asarray(one) for row in flat for one in getattr(row, what)]
                )
            arrays[f"{name}_lengths"] = np.asarray([[len(ids) for ids in row.ids] for row in flat])
            for target in flat[0].targets:
                join = np.concatenate if target in self.form.token_targets else np.stack
                arrays[f"{name}_{target}"] = join([np.asarray(row.targets[target]) for row in flat])
        np.savez(path, **arrays)

    def predictions(self, name: str, logits: np.ndarray) -> list[Any]:
        """What logits of a part mean: (N, C), (N, K, 1), or (tokens, C) of all rows end to end."""
        examples, rows = self.parts[name]
        counts = [len(own) for own in rows]
        if self.peer.head in ("token", "span"):
            ends = np.cumsum([row.length for own in rows for row in own])[:-1]
            each: Sequence[np.ndarray] = np.split(logits, ends)
        else:
            each = list(logits)
        named = [self._answers(values) for values in each]
        firsts = np.cumsum([0, *counts])
        return [
            self.form.decode(example, own, named[first : first + len(own)])
            for example, own, first in zip(examples, rows, firsts[:-1], strict=True)
        ]

    def _answers(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        found = self.form.answers({f"{self.form.head}_logits": logits[None]}, {})  # type: ignore[dict-item]
        return {name: np.asarray(values)[0] for name, values in found.items()}

    def scores(self, logits: Mapping[str, np.ndarray]) -> Scores:
        """What the logits of the scored part are worth."""
        self.form.no_answer_threshold = None
        if self.peer.tuned:
            held_out = self.task.metric(self.predictions("dev", logits["dev"]), self.parts["dev"][0])
            self.form.no_answer_threshold = held_out.get("no_answer_threshold")  # none where all have answers
        return self.task.metric(self.predictions(self.scored, logits[self.scored]), self.parts[self.scored][0])

    def baseline(self) -> tuple[str, float] | None:
        """What may be said without looking at an example (the commonest label of training, no entity, no answer), and
        its score. Of relations, where the commonest is Other and counts nothing, the better of it and the next one."""
        from bert_jax.tasks.degenerate import trivial

        scored, train = self.parts[self.scored][0], self.parts["train"][0]
        found = [trivial(self.task, scored, train)]
        if self.task.head == "relation":
            found.append(trivial(self.task, scored, [example for example in train if example.label != "Other"]))
        return max((one for one in found if one is not None), key=lambda one: one[1], default=None)
