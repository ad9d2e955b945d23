"""A 4-layer BERT (mini, 256 wide) on 40 MB of English Wikipedia, about an hour on two CPU cores.

    bert-jax pretrain bert_mini_enwiki --run runs/mini

Ten thousand steps of 16 sequences of 64 tokens, then 1,500 of 128 tokens, under one schedule. Run to its end, its curve
is results/curves/bert_mini_enwiki.jsonl (109 minutes with other work on the same cores; about 60 without). On held-out
documents it gave after the first phase 0.166 masked LM accuracy (always the commonest token: 0.049) and 0.757 next
sentence accuracy (always the commoner label: 0.568), at the end, in sequences of 128, 0.154 and 0.775 (0.537). In 13
million tokens it learns which sentences belong together, and of the masked words little more than their frequency
beside their neighbours. Peak rates of 1e-3 and 1.5e-3 were behind this one after 2,700 steps.

The corpus is looked for in BERT_JAX_TEST_DATA (default: ../shared/data); name your own with --data.sources.

Topology: v5e:1x1
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
