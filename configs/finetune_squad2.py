"""SQuAD 2.0: as version 1.1, but half of the development questions have no answer (Rajpurkar et al. 2018).

    bert-jax finetune finetune_squad2 --run runs/squad2 --init MODEL \\
        --data.train train-v2.0.json --data.dev dev-v2.0.json

The recipe of Devlin et al. 2019 (section 4.3): 2 epochs of 48 windows at 5e-5, 384 tokens with a stride of 128; the
no-answer threshold is tuned on the development set for F1. They give F1 81.9 and exact match 78.7 there for BERT-large.
Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="squad2", length=384, doc_stride=128, query_length=64, answer_length=30),
    data=TaskData(train=("train-v2.0.json",), dev=("dev-v2.0.json",)),
    finetune=Finetune(epochs=2, batch=48),
    optimizer=Optimizer(name="adamw", learning_rate=5e-5, warmup=0.1, decay_from="warmup"),
)
