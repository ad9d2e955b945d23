"""Named entities in Chinese microblogs: Weibo NER, second edition (names and nouns of four kinds).

    bert-jax finetune finetune_weibo --run runs/weibo --init hf:google-bert/bert-base-chinese \\
        --data.train weiboNER_2nd_conll.train --data.dev weiboNER_2nd_conll.dev --data.test weiboNER_2nd_conll.test

1,350, 270 and 270 posts, one character per line with its place in a word (口0), which is taken off.
Recipe: the usual one for BERT-base on small tagging sets, 3e-5 and batch 16 within the ranges of Devlin et al. 2019,
with more epochs as there are few examples. Ma et al. 2020 (Simplify the Usage of Lexicon in Chinese NER) report F1
68.20 on test for a BERT tagger. Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="ner", length=192),
    data=TaskData(
        train=("weiboNER_2nd_conll.train",), dev=("weiboNER_2nd_conll.dev",), test=("weiboNER_2nd_conll.test",)
    ),
    finetune=Finetune(epochs=10, batch=16),
    optimizer=Optimizer(name="adamw", learning_rate=3e-5, warmup=0.1, decay_from="warmup"),
)
