"""SWAG: which of four endings goes on from a sentence (Zellers et al. 2018).

    bert-jax finetune finetune_swag --run runs/swag --init MODEL --data.train train.csv --data.dev val.csv

The recipe of Devlin et al. 2019 (section 4.4): 3 epochs of 16 examples, four sequences each, at 2e-5. They give an
accuracy of 0.816 on the development set for BERT-base, 0.866 for BERT-large. Not yet run here. Almost all sequences
have fewer than 80 tokens.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="swag", length=80),
    data=TaskData(train=("train.csv",), dev=("val.csv",)),
    finetune=Finetune(epochs=3, batch=16),
    optimizer=Optimizer(name="adamw", learning_rate=2e-5, warmup=0.1, decay_from="warmup"),
)
