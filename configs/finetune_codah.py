"""CODAH: SWAG-like questions written to mislead a model, 2,776 in five folds (Chen et al. 2019).

    bert-jax finetune finetune_codah --run runs/codah --init MODEL --data.train train.tsv --data.dev test.tsv

SWAG's recipe (Devlin et al. 2019, section 4.4): 3 epochs of 16 examples, four sequences each, at 2e-5; a few hundred
steps, so that several seeds belong to a number: --finetune.seeds 5. Chen et al. first train on SWAG (--init runs/swag);
they give an accuracy of 0.655 for BERT-large on CODAH alone and 0.697 after SWAG, over the folds. Not yet run here.
Do not choose among runs by the test fold: without --data.dev a tenth of the training examples is held out.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="codah", length=64),
    data=TaskData(train=("train.tsv",), test=("test.tsv",)),
    finetune=Finetune(epochs=3, batch=16),
    optimizer=Optimizer(name="adamw", learning_rate=2e-5, warmup=0.1, decay_from="warmup"),
)
