"""BERT-base for Chinese (21,128 entries) with whole words masked.

    bert-jax prepare --source zhwiki/ --tokenizer chinese_vocabulary/ --segmenter jieba --out stores/zh
    bert-jax pretrain bert_base_chinese --run runs/zh --data.store stores/zh

Hyper-parameters of bert_base_wiki; whole words need a store made with a segmenter (extra `zh`).
Not run yet: time and scores are not known.

Topology: v5e:4x4
"""

from bert_jax import BertConfig, Checkpoint, Config, Evaluate, Log, Optimizer, Phase, Train

config = Config(
    model=BertConfig.preset("base_chinese"),
    train=Train(
        length=128,
        batch=256,
        predictions=20,
        steps=900_000,
        whole_words=True,
        later_phases=(Phase(length=512, batch=256, predictions=77, steps=100_000),),
    ),
    optimizer=Optimizer(name="bert_adam", learning_rate=1e-4, warmup=10_000),
    evaluate=Evaluate(every=10_000, sequences=8192),
    checkpoint=Checkpoint(every=5000, keep_every=100_000),
    log=Log(every=100),
)
