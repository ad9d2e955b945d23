"""BERT-base on English Wikipedia with the hyper-parameters of the paper (section A.2), in two phases.

    bert-jax vocab    --source tfds:wikipedia/20230601.en:train:text --out tokenizer --size 30522
    bert-jax prepare  --source tfds:wikipedia/20230601.en:train:text --tokenizer tokenizer --out store
    bert-jax pretrain bert_base_wiki --run runs/base --data.store store

The source is TFDS's wikipedia (needs the extra `tf`, and a download by TFDS); any other text will do. Without
--data.store, and with one process, the first two steps are done as part of the third, under RUN/data.
One million steps of 256 sequences: 900,000 at length 128, then 100,000 at 512, under one schedule.
Not run yet: time and scores are not ours. The paper took four days on 16 TPU chips and gives MNLI 84.4 (development
set, after fine-tuning) for this schedule on Wikipedia and books.

Topology: v5e:4x4
"""

from bert_jax import BertConfig, Checkpoint, Config, Data, Evaluate, Log, Optimizer, Phase, Train

config = Config(
    model=BertConfig.preset("base"),
    data=Data(sources=("tfds:wikipedia/20230601.en:train:text",), vocab_size=30522),
    train=Train(
        length=128,
        batch=256,
        predictions=20,
        steps=900_000,
        later_phases=(Phase(length=512, batch=256, predictions=77, steps=100_000),),
    ),
    optimizer=Optimizer(name="bert_adam", learning_rate=1e-4, warmup=10_000),
    evaluate=Evaluate(every=10_000, sequences=8192),
    checkpoint=Checkpoint(every=5000, keep_every=100_000),
    log=Log(every=100),
)
