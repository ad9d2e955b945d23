"""CODAH: SWAG-like questions written to mislead a model, 2.8 thousand in five folds (Chen et al. 2019).

    bert-jax finetune finetune_codah --run runs/codah --init MODEL --data.train train.tsv --data.test test.tsv

SWAG's recipe (Devlin et al. 2019, section 4.4): 3 epochs of 16 examples, four sequences each, at 2e-5; a few hundred
steps, so that one seed says little: --finetune.seeds 5. Chen et al. reach an accuracy of 0.675 with BERT-large; chance
is 0.25. Not yet run here. A tenth of the training examples is held out to choose by: never choose by the test fold.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="codah", length=64),
    data=TaskData(train=("train.tsv",), test=("test.tsv",)),
    finetune=Finetune(epochs=3, batch=16),
    optimizer=Optimizer(name="adamw", learning_rate=2e-5, warmup=0.1, decay_from="warmup"),
)
