"""Fine-grained Chinese entities: CLUENER 2020 (ten kinds) as tags, one per word.

    bert-jax finetune finetune_cluener --run runs/cluener --init hf:google-bert/bert-base-chinese \\
        --data.train cluener/train.json --data.dev cluener/dev.json --data.test cluener/test.json

10,748, 1,343 and 1,345 sentences of at most 50 characters; the test set has no labels, so it is predicted only. Texts
are cut into words (each Chinese character is one): a few entities that end inside a Latin word become all of it, and
of the overlapping ones the longest remains; how many is told when the files are read. finetune_cluener_pointers
learns the same set with spans instead.
Recipe: 3e-5, batch 32, 4 epochs, as is usual for BERT-base here. Xu et al. 2020 (CLUENER2020) report F1 78.82 for
BERT-base on test, and 63.41 for a person. Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="span_tagging", length=64),
    data=TaskData(train=("cluener/train.json",), dev=("cluener/dev.json",), test=("cluener/test.json",)),
    finetune=Finetune(epochs=4, batch=32),
    optimizer=Optimizer(name="adamw", learning_rate=3e-5, warmup=0.1, decay_from="warmup"),
)
