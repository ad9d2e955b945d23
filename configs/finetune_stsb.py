"""STS-B: how alike are two sentences, from 0 to 5? 5,749 pairs to train on; Pearson and Spearman correlation.

    bert-jax finetune finetune_stsb --run runs/stsb --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: Spearman 0.858 on the test set (BERT-base, published). The score
is predicted as it is, by one output and squared error.
Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them:
--data.train STS-B/train.tsv --data.dev STS-B/dev.tsv.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="stsb", length=128),
    data=TaskData(train=("tfds:glue/stsb:train",), dev=("tfds:glue/stsb:validation",)),
    finetune=Finetune(batch=32, epochs=3.0),
)
