"""WNLI: is a pronoun put in the right place? 635 pairs to train on; accuracy.

    bert-jax finetune finetune_wnli --run runs/wnli --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: nothing. The dev set repeats sentences of the training set with the
other label, so that a model that learns by heart is below chance; the published results leave this task out. The
commoner class is 0.563 of dev.
Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them:
--data.train WNLI/train.tsv --data.dev WNLI/dev.tsv.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="wnli", length=128),
    data=TaskData(train=("tfds:glue/wnli:train",), dev=("tfds:glue/wnli:validation",)),
    finetune=Finetune(batch=32, epochs=3.0),
)
