"""MRPC: do two sentences of the news say the same? 3,668 pairs to train on; F1 of "equivalent", and accuracy.

    bert-jax finetune finetune_mrpc --run runs/mrpc --init hf:google-bert/bert-base-uncased

Recipe: Devlin et al. 2019 (BERT), for GLUE: batch 32, 3 epochs, a rate of 2e-5 to 5e-5 (the published example: 2e-5),
rows of at most 128 tokens. Expected: F1 0.889 on the test set (BERT-base, published), accuracy of 0.84
to 0.88 on dev: the set is small and seeds differ (--finetune.seeds 5).
Not yet run here.

Without TensorFlow Datasets name GLUE's files, --data.train MRPC/train.tsv --data.dev MRPC/dev.tsv. Microsoft's own
msr_paraphrase_train.txt holds GLUE's dev set, so a dev set is to be held out of it: in a CONFIG of your own,
data=TaskData(train=("MRPC/msr_paraphrase_train.txt",), test=("MRPC/msr_paraphrase_test.txt",)).
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="mrpc", length=128),
    data=TaskData(train=("tfds:glue/mrpc:train",), dev=("tfds:glue/mrpc:validation",)),
    finetune=Finetune(batch=32, epochs=3.0),
)
