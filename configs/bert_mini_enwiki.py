"""A 4-layer BERT (mini, 256 wide) on 40 MB of English Wikipedia, about an hour on two CPU cores.

    bert-jax pretrain bert_mini_enwiki --run runs/mini

Ten thousand steps of 16 sequences of 64 tokens, then 1,500 of 128 tokens, under one schedule. Begun but not yet run to
its end, so its final scores are not known. After 4,000 steps it had, on held-out documents, 0.142 masked LM accuracy
(always the commonest token: 0.049) and 0.608 next sentence accuracy (always the commoner label: 0.568).

The corpus is looked for in BERT_JAX_TEST_DATA (default: ../shared/data); name your own with --data.sources.
"""

import os

from bert_jax import BertConfig, Checkpoint, Config, Data, Evaluate, Log, Optimizer, Phase, Train

config = Config(
    model=BertConfig.preset(
        "mini",
        vocab_size=None,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    data=Data(
        sources=(os.path.join(os.environ.get("BERT_JAX_TEST_DATA", "../shared/data"), "corpus/enwiki"),),
        vocab_size=8192,
        eval_fraction=0.02,
    ),
    train=Train(
        length=64,
        batch=16,
        predictions=10,
        steps=10_000,
        later_phases=(Phase(length=128, batch=16, predictions=20, steps=1500),),
    ),
    optimizer=Optimizer(name="adamw", learning_rate=7e-4, warmup=0.1, b2=0.98),
    evaluate=Evaluate(every=2000, sequences=2048),
    checkpoint=Checkpoint(every=500),
    log=Log(every=50),
)
