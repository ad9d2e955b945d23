"""DRCD: traditional Chinese questions about Wikipedia paragraphs (Shao et al. 2018), scored as CMRC 2018 is.

    bert-jax finetune finetune_drcd --run runs/drcd --init MODEL --data.train DRCD_training.json \\
        --data.dev DRCD_dev.json --data.test DRCD_test.json

2 epochs of 32 windows at 3e-5, 512 tokens with a stride of 128, as is usual for Chinese BERT-base. For that Cui et al.
2021 ("Pre-training with whole word masking for Chinese BERT") give exact match 83.1 and F1 89.9 on the development set,
the best of ten runs (82.7 and 89.6 on average). Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="drcd", length=512, doc_stride=128, query_length=64, answer_length=30),
    data=TaskData(train=("DRCD_training.json",), dev=("DRCD_dev.json",)),
    finetune=Finetune(epochs=2, batch=32),
    optimizer=Optimizer(name="adamw", learning_rate=3e-5, warmup=0.1, decay_from="warmup"),
)
