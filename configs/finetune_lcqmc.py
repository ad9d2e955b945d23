"""LCQMC: do two Chinese questions mean the same? 238,766 pairs to train on; accuracy.

    bert-jax finetune finetune_lcqmc --run runs/lcqmc --init hf:google-bert/bert-base-chinese

Recipe: Cui et al. 2019 (whole word masking for Chinese BERT): batch 64, 3 epochs, a rate of 2e-5, rows of at most
128 tokens. Expected: about 0.89 on dev and 0.87 on test (BERT-base, Chinese; published).
Not yet run here.

The data are files, two questions and a label (0 or 1) per line, with or without a header.
Give the paths where yours lie: --data.train PATH --data.dev PATH.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="lcqmc", length=128),
    data=TaskData(train=("lcqmc/train.txt",), dev=("lcqmc/dev.txt",), test=("lcqmc/test.txt",)),
    finetune=Finetune(batch=64, epochs=3.0),
)
