"""Named entities in English news: CoNLL-2003 (persons, places, organisations, others), a cased model.

    bert-jax finetune finetune_conll --run runs/conll --init hf:google-bert/bert-base-cased \\
        --data.train conll2003/eng.train --data.dev conll2003/eng.testa --data.test conll2003/eng.testb

The published files are not free to pass on: get them from their owners. Columns of IOB1, IOB2 and BIOES are all read,
and -DOCSTART- lines give the documents whose other sentences fill each row (`task.document_context`).
Recipe of Devlin et al. 2019 (BERT), section 5.3 and appendix A.3: cased, the label of a word on its first piece,
document context, batch 32, 3 epochs, 5e-5 the best of the rates tried there (2e-5, 3e-5 and 5e-5 are worth a try:
--finetune.learning_rates). They report F1 96.4 on dev and 92.4 on test for BERT-base, 96.6 and 92.8 for BERT-large,
means of five runs. Not yet run here.
"""

from bert_jax.config import Optimizer
from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="ner", length=256, document_context=True),
    data=TaskData(train=("conll2003/eng.train",), dev=("conll2003/eng.testa",), test=("conll2003/eng.testb",)),
    finetune=Finetune(epochs=3, batch=32),
    optimizer=Optimizer(name="adamw", learning_rate=5e-5, warmup=0.1, decay_from="warmup"),
)
