"""QNLI: does a sentence hold the answer to a question? 104,743 pairs to train on; accuracy.

    bert-jax finetune finetune_qnli --run runs/qnli --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: 0.905 on the test set (BERT-base, published).
Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them:
--data.train QNLI/train.tsv --data.dev QNLI/dev.tsv.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="qnli", length=128),
    data=TaskData(train=("tfds:glue/qnli:train",), dev=("tfds:glue/qnli:validation",)),
    finetune=Finetune(batch=32, epochs=3.0),
)
