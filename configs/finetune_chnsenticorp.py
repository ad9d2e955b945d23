"""ChnSentiCorp: is a Chinese review of a hotel, a book or a computer positive? 9,600 reviews; accuracy.

    bert-jax finetune finetune_chnsenticorp --run runs/chnsenticorp --init hf:google-bert/bert-base-chinese

Recipe: Cui et al. 2019 (whole word masking for Chinese BERT): batch 64, 3 epochs, a rate of 2e-5, rows of at most
256 tokens. Expected: about 0.95 on dev and test (BERT-base, Chinese; published).
Not yet run here.

The data are files, one review per line with its label (0 or 1) before it, under a header `label text_a`.
Give the paths where yours lie: --data.train PATH --data.dev PATH.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="chnsenticorp", length=256),
    data=TaskData(train=("chnsenticorp/train.tsv",), dev=("chnsenticorp/dev.tsv",), test=("chnsenticorp/test.tsv",)),
    finetune=Finetune(batch=64, epochs=3.0),
)
