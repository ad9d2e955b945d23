"""A small BERT from nothing: the documentation that ships with CPython, on a laptop.

    launch/quickstart.sh
    bert-jax pretrain quickstart --run runs/quickstart

The vocabulary (4,096 pieces) and the token store are made first, under RUN/data. Pairs are drawn as published.
"""

from bert_jax import BertConfig, Checkpoint, Config, Data, Evaluate, Log, Optimizer, Train

config = Config(
    model=BertConfig(
        vocab_size=None,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    data=Data(sources=("stdlib",), vocab_size=4096, eval_fraction=0.08),
    train=Train(length=48, batch=16, predictions=8, steps=5000, nonfinite_limit=1),
    optimizer=Optimizer(name="adamw", learning_rate=2e-3, warmup=0.1),
    evaluate=Evaluate(every=1250, sequences=2048),
    checkpoint=Checkpoint(every=1250),
    log=Log(every=100),
)
