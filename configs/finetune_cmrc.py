"""CMRC 2018: simplified Chinese questions about Wikipedia paragraphs (Cui et al. 2019), scored by its own script.

    bert-jax finetune finetune_cmrc --run runs/cmrc --init MODEL --data.train cmrc2018_train.json \\
        --data.dev cmrc2018_dev.json

2 epochs of 32 windows at 3e-5, 512 tokens with a stride of 128, as is usual for Chinese BERT-base. For that Cui et al.
2021 ("Pre-training with whole word masking for Chinese BERT") give exact match 65.5 and F1 84.5 on the development set,
the best of ten runs (64.4 and 84.0 on average). Not yet run here. An answer may be a sentence: 64 tokens are allowed.

Some answers of the published files are not at their offsets (200 of 9,657 in the development set): they are reported,
and count in the scores all the same.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="cmrc", length=512, doc_stride=128, query_length=64, answer_length=64),
    data=TaskData(train=("cmrc2018_train.json",), dev=("cmrc2018_dev.json",), on_error="skip"),
    finetune=Finetune(epochs=2, batch=32),
    optimizer=Optimizer(name="adamw", learning_rate=3e-5, warmup=0.1, decay_from="warmup"),
)
