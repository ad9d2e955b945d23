"""SQuAD 1.1: the answer to a question is a span of a paragraph (Rajpurkar et al. 2016).

    bert-jax finetune finetune_squad1 --run runs/squad1 --init MODEL \\
        --data.train train-v1.1.json --data.dev dev-v1.1.json

The recipe of Devlin et al. 2019 (section 4.2 and its appendix): 3 epochs of 32 windows at 5e-5, 384 tokens with a
stride of 128. They give F1 88.5 and exact match 80.8 on the development set for BERT-base, 90.9 and 84.1 for
BERT-large. Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="squad1", length=384, doc_stride=128, query_length=64, answer_length=30),
    data=TaskData(train=("train-v1.1.json",), dev=("dev-v1.1.json",)),
    finetune=Finetune(epochs=3, batch=32),
    optimizer=Optimizer(name="adamw", learning_rate=5e-5, warmup=0.1, decay_from="warmup"),
)
