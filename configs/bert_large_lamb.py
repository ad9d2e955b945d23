"""BERT-large in 8,601 steps with LAMB (You et al. 2020, "Training BERT in 76 minutes", table 1 and appendix).

    bert-jax pretrain bert_large_lamb --run runs/large --data.store store

65,536 sequences of 128 tokens for 7,038 steps at 6e-3, warm-up 0.2843; then 32,768 of 512 for 1,563 steps at 4e-3,
warm-up 0.128: moments are kept, count and schedule begin anew. Polynomial decay of power 0.5, counted from step 0.
Not run yet: time and scores are not ours. The paper took 76 minutes on 1,024 TPU v3 chips and gives SQuAD 1.1 F1 90.58
(development set, after fine-tuning).

Topology: v4:8x8x8
"""

from bert_jax import BertConfig, Checkpoint, Config, Evaluate, Log, Optimizer, Phase, Train

config = Config(
    model=BertConfig.preset("large"),
    train=Train(
        length=128,
        batch=65_536,
        predictions=20,
        steps=7038,
        later_phases=(
            Phase(
                length=512,
                batch=32_768,
                predictions=80,
                steps=1563,
                learning_rate=4e-3,
                warmup=0.128,
                restart=True,
            ),
        ),
        dropout="fast",
        remat="full",
    ),
    optimizer=Optimizer(
        name="lamb",
        learning_rate=6e-3,
        warmup=0.2843,
        decay="polynomial",
        decay_power=0.5,
        decay_from="start",
        eps=1e-6,
        clip_norm=1.0,
    ),
    evaluate=Evaluate(every=500, sequences=16_384),
    checkpoint=Checkpoint(every=200, keep_every=2000),
    log=Log(every=20),
)
