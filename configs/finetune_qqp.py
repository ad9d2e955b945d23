"""QQP: do two questions ask the same? 363,846 pairs to train on; F1 of "duplicate", and accuracy.

    bert-jax finetune finetune_qqp --run runs/qqp --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: F1 0.712 on the test set (BERT-base, published).
Some lines of the distributed file are broken: they are left out, and counted.
Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them:
--data.train QQP/train.tsv --data.dev QQP/dev.tsv.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="qqp", length=128),
    data=TaskData(train=("tfds:glue/qqp:train",), dev=("tfds:glue/qqp:validation",), on_error="skip"),
    finetune=Finetune(batch=32, epochs=3.0),
)
