"""SST-2: is a phrase from a film review positive? 67,349 phrases to train on; accuracy.

    bert-jax finetune finetune_sst2 --run runs/sst2 --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: 0.935 on the test set (BERT-base, published). Nearly all phrases
are shorter than 64 tokens.
Run here so far: one epoch from MiniLM (6 layers, 384 wide) instead of BERT-base: at 1e-4 0.897 on dev, at 2e-5 0.867.

Without TensorFlow Datasets name the files as GLUE distributes them:
--data.train SST-2/train.tsv --data.dev SST-2/dev.tsv.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="sst2", length=64),
    data=TaskData(train=("tfds:glue/sst2:train",), dev=("tfds:glue/sst2:validation",)),
    finetune=Finetune(batch=32, epochs=3.0),
)
