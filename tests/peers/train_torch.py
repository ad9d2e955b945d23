"""A BERT pre-training step by Hugging Face transformers on torch, as shipped or with a masked-position head.

python train_torch.py --model mini --batch 32 --head masked --compile --attention sdpa
python train_torch.py --model base --batch 256 --head masked --compile --device cuda --dtype bfloat16
"""

from __future__ import annotations

import contract
import torch
from transformers import BertConfig, BertForPreTraining


def main() -> None:
    """Time the step and print one line."""
    parser = contract.train_arguments(__doc__.splitlines()[0])
    parser.add_argument("--head", choices=("shipped", "masked"), default="shipped")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adamw", choices=("fused", "plain"), default="fused", help="fused is the Trainer's default")
    parser.add_argument("--compile", action="store_true", help="torch.compile of model and loss")
    parser.add_argument("--attention", choices=("eager", "sdpa"), help="default: transformers' own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: by autocast")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    layers, width, heads, feed_forward = contract.MODELS[arguments.model]
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=feed_forward
    )
    if arguments.attention is not None:
        config._attn_implementation = arguments.attention
    model = BertForPreTraining(config).train().to(arguments.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=arguments.adamw == "fused")
    batch = {
        name: torch.from_numpy(array).long().to(arguments.device)
        for name, array in contract.random_batch(arguments.batch, arguments.length, arguments.predictions).items()
    }
    loss_of = shipped_loss if arguments.head == "shipped" else masked_loss
    if arguments.compile:
        loss_of = torch.compile(loss_of)
    half = arguments.dtype == "bfloat16"

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(arguments.device, torch.bfloat16, enabled=half):
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    timing = contract.time_steps(step, arguments.warmup, arguments.steps)
    head_positions = arguments.length if arguments.head == "shipped" else arguments.predictions
    flops = contract.train_flops(arguments.model, arguments.length, head_positions)
    name = f"torch_{arguments.head}" + ("_compiled" if arguments.compile else "")
    record = contract.train_record(name, arguments, timing, flops)
    record |= {"attention_engine": model.config._attn_implementation, "adamw": arguments.adamw, "last_loss": step()}
    record |= {"dtype": arguments.dtype}
    if arguments.device == "cuda":
        record |= {"device_kind": torch.cuda.get_device_name(), "peak_bytes": torch.cuda.max_memory_allocated()}
    contract.answer(record, "torch", "transformers")


def shipped_loss(model: BertForPreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own loss: scores at all positions, labels -100 where nothing is predicted."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels.scatter_(1, batch["masked_lm_positions"], batch["masked_lm_ids"])
    return model(
        input_ids=batch["input_ids"],
        attention_mask=batch["input_mask"],
        token_type_ids=batch["segment_ids"],
        labels=labels,
        next_sentence_label=batch["next_sentence_labels"],
    ).loss


def masked_loss(model: BertForPreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same loss with the masked-word head run on the predicted positions only."""
    output = model.bert(
        input_ids=batch["input_ids"], attention_mask=batch["input_mask"], token_type_ids=batch["segment_ids"]
    )
    rows = torch.arange(batch["input_ids"].shape[0])[:, None]
    hidden = output.last_hidden_state[rows, batch["masked_lm_positions"]]
    scores, related = model.cls(hidden, output.pooler_output)
    cross_entropy = torch.nn.functional.cross_entropy
    words = cross_entropy(scores.flatten(0, 1), batch["masked_lm_ids"].flatten())
    return words + cross_entropy(related, batch["next_sentence_labels"])


if __name__ == "__main__":
    main()
