"""RTE: does a sentence follow from another text? 2,490 pairs to train on; accuracy.

    bert-jax finetune finetune_rte --run runs/rte --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: 0.664 on the test set (BERT-base, published). The set is small:
seeds differ by several points (--finetune.seeds 5), and more epochs make them differ less.
Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them:
--data.train RTE/train.tsv --data.dev RTE/dev.tsv.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="rte", length=128),
    data=TaskData(train=("tfds:glue/rte:train",), dev=("tfds:glue/rte:validation",)),
    finetune=Finetune(batch=32, epochs=3.0),
)
