"""A hundred steps of fine-tuning on GLUE equal those of Hugging Face's transformers with torch.

Both start from MiniLM with the same new head and see the same batches, 8 rows of at most 64 tokens, from the real
files: no dropout, AdamW with decay off biases and LayerNorm, warm-up of 10 steps, linear decay, clipping. The losses
of the other side stand in tests/golden, so that torch is not needed; where it is installed they are computed anew:

    BERT_JAX_WRITE_GOLDEN=1 python -m pytest -m full -k in_torch tests/test_finetuning_oracles.py

CoLA and STS-B run in CI, MRPC and RTE by name (-m full -k hundred); with -s each says how far apart they are.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from minilm import minilm_directory

from bert_jax import compat
from bert_jax.config import Mesh, Optimizer, Train
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions
from bert_jax.formats.model import LoadedModel, load_model
from bert_jax.model.bert import make_model
from bert_jax.tasks.batches import TrainingRows, bucket_lengths
from bert_jax.tasks.examples import encode_all, read_splits
from bert_jax.tasks.table import FORMS, find_task
from bert_jax.tasks.task import Form, Task
from bert_jax.train.sharding import make_layout, make_mesh
from bert_jax.train.state import resolve
from bert_jax.train.supervised import Learned, Member, make_finetune_program

HUGGING_FACE = Path(__file__).parent / "golden" / "huggingface_finetuning.json"
"""By task the losses of its 100 steps in torch."""
STEPS, WARMUP, RATE, EPSILON, DECAY, CLIP = 100, 10, 2e-5, 1e-6, 0.01, 1.0
FILES = {
    "mrpc": "MRPC/msr_paraphrase_train.txt",
    "rte": "RTE/train.tsv",
    "cola": "CoLA/train.tsv",
    "stsb": "STS-B/train.tsv",
}
EXAMPLES = 700
"""87 full batches and a half one: the hundred steps meet a batch that is filled up, and a second epoch."""
Batches = list[Mapping[str, np.ndarray]]


class Material(NamedTuple):
    """What both sides are given."""

    config: FinetuneConfig
    task: Task
    form: Form
    start: LoadedModel
    head: dict[str, np.ndarray]
    batches: Batches


def material_of(name: str, data_dir: Path) -> Material:
    file = str(data_dir / "glue" / FILES[name])
    config = FinetuneConfig(
        task=TaskOptions(name=name, length=64),
        data=TaskData(train=(file,), dev=(file,), examples=EXAMPLES),
        finetune=Finetune(steps=STEPS, batch=8, buckets=(32,), dropout=0.0, attention_dropout=0.0),
        optimizer=Optimizer(
            "adamw", learning_rate=RATE, warmup=WARMUP / STEPS, decay_from="warmup", eps=EPSILON, weight_decay=DECAY
        ),
    )
    task, start = find_task(name), load_model(minilm_directory())
    train = read_splits(task, config.data)["train"]
    kind = FORMS[task.head]
    form = kind(start.tokenizer, task.labels or kind.labels_of(train.examples), config.task)
    rows = [row for own in encode_all(train, form, config.data)[1] for row in own]
    feed = TrainingRows(rows, form, bucket_lengths(config.finetune.buckets, 64), 8, [0])
    random = np.random.default_rng(0)
    head = {"kernel": (start.config.hidden_size, form.classes), "bias": (form.classes,)}
    drawn = {name: random.normal(0.0, 0.02, shape).astype(np.float32) for name, shape in head.items()}
    return Material(config, task, form, start, drawn, list(itertools.islice(feed.batches(0), STEPS)))


def ours(material: Material, steps: int = STEPS) -> list[float]:
    """The losses of the first steps, by the program that `finetune` trains with."""
    form, mesh = material.form, make_mesh(Mesh(1, 1, 1), jax.devices()[:1])
    config = dataclasses.replace(material.start.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    bert = make_model(
        config,
        heads=(form.head or "",),
        classes=form.classes,
        pooler=form.pooler,
        layout=make_layout(mesh),
    )
    learned = Learned(bert, form.loss, form.answers)
    made = make_finetune_program(learned, material.config, (Member("seed-0", 0, RATE),), mesh, resolve(Train(), mesh))
    assert form.head is not None
    state, losses, compiled = made.init_state({**material.start.params, form.head: material.head}), [], {}
    with compat.set_mesh(made.mesh):
        for batch in map(made.place, material.batches[:steps]):
            shape = batch["input_ids"].shape
            if shape not in compiled:  # tests compile without optimisations, which a hundred steps are worth
                lowered = made.compiled_train_step.lower(state, batch, made.seeds)
                compiled[shape] = lowered.compile({"xla_backend_optimization_level": 3})
            state, metrics = compiled[shape](state, batch, made.seeds)
            losses.append(metrics["loss"])
    return [float(loss) for loss in losses]


def in_torch(torch: Any, material: Material) -> list[float]:
    """The losses of `BertForSequenceClassification`, read by transformers from MiniLM's own files."""
    import transformers

    model = transformers.BertForSequenceClassification.from_pretrained(
        minilm_directory(),
        num_labels=material.form.classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).train()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(material.head["kernel"].T.copy()))
        model.classifier.bias.copy_(torch.from_numpy(material.head["bias"]))
    still = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decaying = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    optimizer = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": DECAY}, {"params": still, "weight_decay": 0.0}], lr=RATE, eps=EPSILON
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    losses = []
    for batch in material.batches:
        real = int(batch["weights"].sum())
        arrays = {name: torch.from_numpy(array[:real]) for name, array in batch.items() if name != "example_ids"}
        labels = arrays["scores"].float() if "scores" in arrays else arrays["labels"].long()
        output = model(
            input_ids=arrays["input_ids"].long(),
            attention_mask=arrays["input_mask"].long(),
            token_type_ids=arrays["segment_ids"].long(),
            labels=labels,
        )
        losses.append(float(output.loss.detach()))
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return losses


def golden(name: str) -> list[float]:
    return json.loads(HUGGING_FACE.read_text())[name]


@pytest.mark.parametrize("name", ["cola", "stsb"])  # one length: compiled once
def test_the_first_steps_equal_those_of_hugging_face(name: str, data_dir: Path) -> None:
    np.testing.assert_allclose(ours(material_of(name, data_dir), 20), golden(name)[:20], rtol=1e-4)


MARKS = {"cola": pytest.mark.ci, "stsb": pytest.mark.ci}  # sentences are short; the others take twice as long


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, pytest.mark.full)) for name in FILES])
def test_a_hundred_steps_equal_those_of_hugging_face(name: str, data_dir: Path) -> None:
    material, expected = material_of(name, data_dir), golden(name)
    assert any(batch["weights"].sum() < 8 for batch in material.batches)
    assert np.mean(expected[-20:]) < np.mean(expected[:20])
    found = ours(material)
    print(f"{name}: losses differ by at most {np.max(np.abs(np.divide(found, expected) - 1)):.1e}, relative")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch and transformers
@pytest.mark.parametrize("name", FILES)
def test_the_golden_losses_are_those_of_hugging_face_in_torch(name: str, data_dir: Path) -> None:
    torch = pytest.importorskip("torch", reason="the comparison needs torch: install the extra `compare`")
    found = in_torch(torch, material_of(name, data_dir))
    if os.environ.get("BERT_JAX_WRITE_GOLDEN"):
        known = json.loads(HUGGING_FACE.read_text()) if HUGGING_FACE.is_file() else {}
        HUGGING_FACE.write_text(json.dumps({**known, name: found}, indent=0) + "\n")
    np.testing.assert_allclose(found, golden(name), rtol=1e-4)
