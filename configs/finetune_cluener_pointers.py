"""Fine-grained Chinese entities: CLUENER 2020 (ten kinds) as spans, which may overlap, by begins and ends.

    bert-jax finetune finetune_cluener_pointers --run runs/pointers --init hf:google-bert/bert-base-chinese \\
        --data.train cluener/train.json --data.dev cluener/dev.json --data.test cluener/test.json

For each token and kind a sigmoid for whether a span begins here, and one for whether it ends; any set of
{"text": …, "spans": [[first, past, kind], …]} is learned the same way.
Recipe: that of finetune_cluener with more epochs and a higher rate, as most begins and ends are a no; a new head begins
with a bias that says so (bert_jax/tasks/pointers.py).
Xu et al. 2020 (CLUENER2020) report F1 78.82 for BERT-base as a tagger on test; for pointers there is no published
score. Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="spans", length=64, threshold=0.5),
    data=TaskData(train=("cluener/train.json",), dev=("cluener/dev.json",), test=("cluener/test.json",)),
    finetune=Finetune(epochs=6, batch=32),
    optimizer=Optimizer(name="adamw", learning_rate=5e-5, warmup=0.1, decay_from="warmup"),
)
