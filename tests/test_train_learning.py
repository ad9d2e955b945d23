"""The step learns, and learns what PyTorch learns."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_model_reference import huggingface_model

from bert_jax import compat
from bert_jax.bert_config import BertConfig
from bert_jax.config import Config, Mesh, Optimizer, Train
from bert_jax.model.bert import abstract_parameters, make_model
from bert_jax.train.masking import Vocabulary, mask_tokens
from bert_jax.train.program import Program, make_program
from bert_jax.train.sharding import make_mesh

T, ROWS = 32, 64


def one_device() -> jax.sharding.Mesh:
    return make_mesh(Mesh(1, 1, 1), jax.devices()[:1])


def as_examples(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that are full, A up to the first [SEP] in the middle."""
    rows, length = ids.shape
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": np.ones_like(ids, np.int32),
        "segment_ids": np.broadcast_to(np.arange(length) > length // 2, ids.shape).astype(np.int32),
        "word_starts": np.ones_like(ids, np.int32),
        "example_ids": np.arange(rows, dtype=np.uint32),
        "epochs": np.zeros(rows, np.int32),
        "next_sentence_labels": (np.arange(rows) % 2).astype(np.int32),
    }


@pytest.mark.ci
def test_four_layers_learn_64_real_sequences_by_heart(data_dir: Path, tmp_path: Path) -> None:
    from bert_jax.text.tokenizer import load_tokenizer

    (tmp_path / "vocab.txt").write_bytes((data_dir / "vocab" / "bert_base_uncased.txt").read_bytes())
    tokenizer = load_tokenizer(tmp_path, cased=False)
    text = sorted((data_dir / "corpus" / "enwiki").glob("*.txt"))[0].read_text("utf-8")
    paragraphs = [line for line in text.splitlines() if len(line) > 500 and not line.startswith("<")][:ROWS]
    half = T // 2
    ids = np.full((ROWS, T), tokenizer.sep_id, np.int32)
    ids[:, 0] = tokenizer.cls_id
    for row, paragraph in enumerate(paragraphs):
        tokens = tokenizer.ids(paragraph)
        ids[row, 1:half], ids[row, half + 1 : -1] = tokens[: half - 1], tokens[half - 1 : T - 3]
    vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, tokenizer.special_ids)
    config = Config(
        model=BertConfig(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=T,
        ),
        train=Train(length=T, batch=ROWS, predictions=5, steps=300),
        optimizer=Optimizer("adamw", learning_rate=1e-3, warmup=30),
    )
    made = make_program(config, 0, one_device(), vocabulary)
    state, batch = made.init_state(), made.place(as_examples(ids))  # one epoch number: the same masks every time
    with compat.set_mesh(made.mesh):  # hundreds of steps: this one is worth the compiler's optimisations
        step = made.compiled_train_step.lower(state, batch).compile({"xla_backend_optimization_level": 3})
    state, first = step(state, batch)
    state, second = step(state, batch)
    assert first["learning_rate"] == 0 < second["learning_rate"]
    held = jax.tree.map(lambda leaf: jax.device_put(np.array(leaf), leaf.sharding), state)
    views = [np.asarray(leaf) for leaf in jax.tree.leaves(held)]  # what somebody looks at is not overwritten
    expected, state, metrics = step(held, batch)[1], *step(state, batch)
    assert jax.device_get(metrics) == jax.device_get(expected), "the step overwrites parameters that it still reads"
    del views
    for _ in range(297):
        state, metrics = step(state, batch)
        if metrics["mlm_correct"] > 0.97 * metrics["mlm_count"] and metrics["nsp_correct"] == ROWS:
            break
    assert float(metrics["mlm_correct"] / metrics["mlm_count"]) > 0.95, jax.device_get(metrics)
    assert float(metrics["nsp_correct"] / ROWS) > 0.95


STEPS = 100
SMALL = BertConfig(
    vocab_size=211,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def make_batches(vocabulary: Vocabulary) -> list[dict[str, np.ndarray]]:
    """Masked batches of a first-order chain over 20 tokens: there is something to learn."""
    rng = np.random.default_rng(5)
    batches = []
    for step in range(STEPS):
        steps = rng.choice([1, 1, 1, 7], (8, 24)).cumsum(1)
        ids = 5 + (rng.integers(0, 20, (8, 1)) + steps) % 20
        ids[:, 0], ids[:, 12], ids[:, -1] = 2, 3, 3
        examples = as_examples(ids) | {"example_ids": np.arange(8 * step, 8 * step + 8, dtype=np.uint32)}
        masked = mask_tokens(examples, 3, vocabulary=vocabulary, predictions=4)
        batches.append({name: np.asarray(array) for name, array in masked.items()})
    return batches


def torch_losses(torch: Any, model: Any, batches: list[dict[str, np.ndarray]], rates: list[float]) -> list[float]:
    """Hugging Face's model and loss under google's Adam, written with torch's tensors."""
    parameters = dict(model.named_parameters())
    m = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    v = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    losses = []
    for batch, rate in zip(batches, rates, strict=True):
        labels = np.full(batch["input_ids"].shape, -100)
        rows, places = np.nonzero(batch["masked_lm_weights"])
        labels[rows, batch["masked_lm_positions"][rows, places]] = batch["masked_lm_ids"][rows, places]
        output = model(
            input_ids=torch.tensor(batch["input_ids"]).long(),
            attention_mask=torch.tensor(batch["input_mask"]).long(),
            token_type_ids=torch.tensor(batch["segment_ids"]).long(),
            labels=torch.tensor(labels),
            next_sentence_label=torch.tensor(batch["next_sentence_labels"]).long(),
        )
        losses.append(float(output.loss.detach()))
        model.zero_grad()
        output.loss.backward()
        norm = torch.sqrt(sum((tensor.grad**2).sum() for tensor in parameters.values()))
        with torch.no_grad():
            for name, tensor in parameters.items():
                grad = tensor.grad / torch.clamp(norm, min=1.0)
                m[name] = 0.9 * m[name] + 0.1 * grad
                v[name] = 0.999 * v[name] + 0.001 * grad**2
                update = m[name] / (torch.sqrt(v[name]) + 1e-6)
                if "LayerNorm" not in name and not name.endswith("bias"):
                    update = update + 0.01 * tensor
                tensor -= rate * update
    return losses


def run_ours(made: Program, params: Any, batches: list[dict[str, np.ndarray]]) -> list[float]:
    state, losses = made.init_state(params), []
    for batch in batches:
        state, metrics = made.train_step(state, made.place(batch))
        losses.append(metrics["loss"])
    return [float(loss) for loss in losses]


VOCABULARY = Vocabulary(211, 4, (0, 1, 2, 3, 4))
HUGGING_FACE = Path(__file__).parent / "golden" / "huggingface_hundred_steps.json"
"""The losses of the 100 steps in torch, as the last test of this file found them with BERT_JAX_WRITE_GOLDEN=1."""


def first_parameters() -> dict[str, Any]:
    """Drawn by numpy: the same for torch and jax, today and with every later version."""
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return random.normal(centre, 0.02, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_parameters(make_model(SMALL)))


@pytest.mark.ci
def test_a_hundred_steps_equal_those_of_hugging_face() -> None:
    config = Config(
        model=SMALL,
        train=Train(length=24, batch=8, predictions=4, steps=STEPS),
        optimizer=Optimizer("bert_adam", learning_rate=1e-3, warmup=10),
    )
    ours = run_ours(make_program(config, 0, one_device(), VOCABULARY), first_parameters(), make_batches(VOCABULARY))
    theirs = json.loads(HUGGING_FACE.read_text())
    assert theirs[0] > theirs[-1] + 0.5
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch and transformers
def test_the_golden_losses_are_those_of_hugging_face_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the comparison needs torch: install the extra `compare`")
    model = huggingface_model(SMALL, first_parameters()).train()
    rates = [1e-3 * (step / 10 if step < 10 else 1 - step / STEPS) for step in range(STEPS)]
    found = torch_losses(torch, model, make_batches(VOCABULARY), rates)
    if os.environ.get("BERT_JAX_WRITE_GOLDEN"):
        HUGGING_FACE.write_text(json.dumps(found) + "\n")
    np.testing.assert_allclose(found, json.loads(HUGGING_FACE.read_text()), rtol=1e-5)
