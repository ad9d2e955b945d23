"""A BERT pre-training step by keras-hub on JAX: its BERT backbone and masked-word head, a dense next-sentence head.

    python train_keras_hub.py --model mini --batch 32

keras-hub has no next sentence prediction, so the head is built here. The step is one jitted, donating function over
Keras' stateless calls: what Keras' own `fit` compiles, without its per-step host work.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contract
import jax
import jax.numpy as jnp
import keras
import keras_hub


def make_network(model: str, dropout: float) -> keras.Model:
    """The pre-training model: logits (B, M, V) at the masked positions and (B, 2) for the next sentence."""
    layers, width, heads, feed_forward = contract.MODELS[model]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=contract.VOCABULARY,
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=feed_forward,
        dropout=dropout,
        max_sequence_length=contract.POSITIONS,
    )
    positions = keras.Input((None,), dtype="int32", name="mask_positions")
    outputs = backbone.output
    words = keras_hub.layers.MaskedLMHead(
        vocabulary_size=contract.VOCABULARY,
        token_embedding=backbone.token_embedding,
        intermediate_activation=lambda x: keras.activations.gelu(x, approximate=True),
    )(outputs["sequence_output"], positions)
    related = keras.layers.Dense(2, name="next_sentence")(outputs["pooled_output"])
    return keras.Model({**backbone.input, "mask_positions": positions}, {"words": words, "related": related})


def main() -> None:
    """Time the step and print one line."""
    parser = contract.train_arguments(__doc__.splitlines()[0])
    parser.add_argument("--dropout", type=float, default=0.1)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    network = make_network(arguments.model, arguments.dropout)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.01, global_clipnorm=1.0)
    optimizer.build(network.trainable_variables)
    raw = contract.random_batch(arguments.batch, arguments.length, arguments.predictions)
    batch = {name: jnp.asarray(array) for name, array in raw.items()}

    def loss_of(trainable, fixed, batch):
        inputs = {
            "token_ids": batch["input_ids"],
            "segment_ids": batch["segment_ids"],
            "padding_mask": batch["input_mask"],
            "mask_positions": batch["masked_lm_positions"],
        }
        outputs, fixed = network.stateless_call(trainable, fixed, inputs, training=True)
        cross_entropy = keras.ops.sparse_categorical_crossentropy
        words = cross_entropy(batch["masked_lm_ids"], outputs["words"], from_logits=True).mean()
        related = cross_entropy(batch["next_sentence_labels"], outputs["related"], from_logits=True).mean()
        return words + related, fixed

    def train_step(state, batch):
        trainable, fixed, optimizer_state = state
        (loss, fixed), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, fixed, batch)
        trainable, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, trainable)
        return (trainable, fixed, optimizer_state), loss

    compiled = jax.jit(train_step, donate_argnums=0)
    groups = (network.trainable_variables, network.non_trainable_variables, optimizer.variables)
    holder = [tuple([variable.value for variable in group] for group in groups)]

    def step() -> float:
        holder[0], loss = compiled(holder[0], batch)
        return float(loss)

    timing = contract.time_steps(step, arguments.warmup, arguments.steps)
    flops = contract.train_flops(arguments.model, arguments.length, arguments.predictions)
    record = contract.train_record("keras_hub", arguments, timing, flops)
    contract.answer(record | {"dropout": arguments.dropout, "last_loss": step()}, "jax", "keras", "keras-hub")


if __name__ == "__main__":
    main()
