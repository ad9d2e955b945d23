"""BERT-base with large batches for a TPU slice: AdamW, no attention dropout.

Without that every attention engine can be asked for (--train.attention cudnn on GPUs, xla anywhere).

    bert-jax pretrain bert_base_pod --run runs/base --data.store store

4,096 sequences of 128 tokens for 70,000 steps, then length 512 in packed rows: 768 of them hold about 1,024 sequences
of English Wikipedia, which would be a quarter padding one per row. Not run yet: time and scores are not known.

Topology: v5e:16x16
"""

from bert_jax import BertConfig, Checkpoint, Config, Evaluate, Log, Optimizer, Phase, Train

config = Config(
    model=BertConfig.preset("base", attention_probs_dropout_prob=0.0),
    train=Train(
        length=128,
        batch=4096,
        predictions=20,
        steps=70_000,
        later_phases=(Phase(length=512, batch=768, predictions=77, packing=4, steps=20_000),),
        dropout="fast",
    ),
    optimizer=Optimizer(name="adamw", learning_rate=5e-4, warmup=0.06, b2=0.98, eps=1e-6),
    evaluate=Evaluate(every=2000, sequences=16_384),
    checkpoint=Checkpoint(every=1000, keep_every=10_000),
    log=Log(every=100),
)
