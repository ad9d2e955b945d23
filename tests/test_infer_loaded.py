"""`apply` is the model as a pure function; a head that is not there is an error with its name."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_bert, small_run

from bert_jax.errors import BertJaxError
from bert_jax.infer.loaded import Bert, load


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


def batch_of(bert: Bert) -> dict[str, np.ndarray]:
    rows = [bert.tokenizer.encode("the cat sat", "it was tired", length=12), bert.tokenizer.encode("rain", length=12)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_shapes_and_names(bert: Bert) -> None:
    outputs = bert.apply(batch_of(bert), hidden_states=True, attentions=True)
    assert outputs["sequence_output"].shape == (2, 12, 16)
    assert outputs["pooled_output"].shape == (2, 16)
    assert outputs["masked_lm_logits"].shape == (2, 12, bert.config.vocab_size)
    assert outputs["next_sentence_logits"].shape == (2, 2)
    assert len(outputs["hidden_states"]) == 2
    assert [weights.shape for weights in outputs["attentions"]] == [(2, 2, 12, 12)]
    positions = {"masked_lm_positions": np.array([[1, 2], [1, 0]])}
    picked = bert.apply(batch_of(bert) | positions)["masked_lm_logits"]
    np.testing.assert_allclose(picked[0, 1], outputs["masked_lm_logits"][0, 2], atol=1e-5)


def test_it_is_differentiable_and_jittable_in_given_parameters(bert: Bert) -> None:
    batch = batch_of(bert)

    @jax.jit
    def loss(params):
        return jnp.mean(bert.apply(batch, params)["pooled_output"] ** 2)

    gradients = jax.grad(loss)(bert.params)
    assert jax.tree.structure(gradients) == jax.tree.structure(bert.params)
    step = jax.tree.map(lambda p, g: p - 0.1 * g, bert.params, gradients)
    assert float(loss(step)) < float(loss(bert.params))


def test_a_dropout_key_means_training(bert: Bert) -> None:
    batch = batch_of(bert)
    plain = bert.apply(batch)["pooled_output"]
    one, again, other = (bert.apply(batch, dropout_key=jax.random.key(n))["pooled_output"] for n in (1, 1, 2))
    np.testing.assert_array_equal(bert.apply(batch)["pooled_output"], plain)
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, plain)
    assert not np.allclose(one, other)


def test_load_reads_a_run(tmp_path) -> None:
    small_run(tmp_path / "run", {5: None})
    loaded = load(tmp_path / "run")
    same = small_bert(5)
    assert loaded.source.step == 5 and loaded.source.params is loaded.params
    text = "the [MASK] sat"
    assert loaded.fill_mask(text) == same.fill_mask(text)


def test_a_missing_head_is_named() -> None:
    one_headed = small_bert(heads=("masked_lm",))
    with pytest.raises(BertJaxError, match="has no next_sentence head .it has masked_lm., so it cannot tell"):
        one_headed.next_sentence([("a", "b")])
    with pytest.raises(BertJaxError, match="has no masked_lm head"):
        small_bert(heads=("next_sentence",)).fill_mask("[MASK]")


def test_a_model_of_one_segment_refuses_pairs() -> None:
    source = small_bert().source
    params = {**source.params, "embeddings": {**source.params["embeddings"]}}
    params["embeddings"]["token_type_embeddings"] = params["embeddings"]["token_type_embeddings"][:1]
    config = dataclasses.replace(source.config, type_vocab_size=1)
    bert = Bert(dataclasses.replace(source, config=config, params=params))
    assert bert.embed("the cat").shape == (config.hidden_size,)
    for verb in (bert.embed, bert.attention):
        with pytest.raises(BertJaxError, match=r"a pair has two segments, and small has 1 \(type_vocab_size\)"):
            verb(("the cat", "ran"))
