"""CoLA: is an English sentence acceptable? 8,551 sentences to train on; Matthews correlation.

    bert-jax finetune finetune_cola --run runs/cola --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: 0.521 on the test set (BERT-base, published); published dev
results lie between 0.55 and 0.60. Some seeds never leave the commoner class (0.0): train several, --finetune.seeds 5.
Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them:
--data.train CoLA/train.tsv --data.dev CoLA/dev.tsv. They have no header.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="cola", length=128),
    data=TaskData(train=("tfds:glue/cola:train",), dev=("tfds:glue/cola:validation",)),
    finetune=Finetune(batch=32, epochs=3.0),
)
