"""MNLI: does a sentence follow from another one, contradict it, or neither? 392,702 pairs to train on; accuracy.

    bert-jax finetune finetune_mnli --run runs/mnli --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: 0.846 on matched and 0.834 on mismatched genres (BERT-base,
published). The best step is chosen on the matched dev set, the mismatched one is scored at the end.
Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them: --data.train MNLI/train.tsv
--data.dev MNLI/dev_matched.tsv --data.test MNLI/dev_mismatched.tsv.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="mnli", length=128),
    data=TaskData(
        train=("tfds:glue/mnli:train",),
        dev=("tfds:glue/mnli:validation_matched",),
        test=("tfds:glue/mnli:validation_mismatched",),
    ),
    finetune=Finetune(batch=32, epochs=3.0),
)
