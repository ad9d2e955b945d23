"""Relations between two nominals: SemEval-2010 task 8 (nine relations with direction, and Other).

    bert-jax finetune finetune_semeval --run runs/semeval --init hf:google-bert/bert-base-uncased \\
        --data.train relation/train.tsv --data.test relation/test.tsv

8,000 and 2,717 sentences, a label, a tab and a text with <e1> and <e2>, or the published files as they are. There is
no dev set: a tenth of train is held out to choose by (`data.dev_share`).
Recipe of Wu and He 2019 (R-BERT): markers $ and # around the entities, length 128, batch 16, 2e-5, 5 epochs; they
report a macro F1 of 89.25. The head reads the vectors of the two opening markers, as Baldini Soares et al. 2019 found
best, and not the means over both entities with [CLS]. Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="semeval", length=128),
    data=TaskData(train=("relation/train.tsv",), test=("relation/test.tsv",)),
    finetune=Finetune(epochs=5, batch=16),
    optimizer=Optimizer(name="adamw", learning_rate=2e-5, warmup=0.1, decay_from="warmup"),
)
