"""Sentence embeddings from STS-B: vectors whose cosine is how alike two sentences are; Spearman correlation.

    bert-jax finetune finetune_similarity --run runs/similarity --init hf:google-bert/bert-base-uncased

Recipe: Reimers and Gurevych 2019 (Sentence-BERT): the mean of the token vectors, squared error of the cosine, batch 16,
a rate of 2e-5, warm-up over a tenth of the steps; 4 epochs as in their example. Expected: Spearman 0.847 on the test
set (BERT-base, trained on STS-B alone, published). Not yet run here.

Without TensorFlow Datasets name the files as GLUE distributes them: --data.train STS-B/train.tsv --data.dev
STS-B/dev.tsv. Pairs and triples without scores, {"anchor": …, "positive": …, "negative": …} per line of a .jsonl file,
are trained against all other texts of the batch: take --task.name retrieval and the largest batch that fits.
"""

from bert_jax.finetune_config import Finetune, FinetuneConfig, TaskData, TaskOptions

config = FinetuneConfig(
    task=TaskOptions(name="similarity", length=128, pooling="mean"),
    data=TaskData(train=("tfds:glue/stsb:train",), dev=("tfds:glue/stsb:validation",)),
    finetune=Finetune(batch=16, epochs=4.0),
)
