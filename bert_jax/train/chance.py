"""What a model that has learned nothing would score, and whether this one does better.

`chance` dicts hold `chance_mlm_loss` (nats: the entropy of single tokens, what guessing by frequency costs),
`chance_mlm_accuracy` (the commonest token's share) and `chance_nsp_accuracy` (the larger label's share); a value that
is not known is None or absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_FIRST_LOSS_TOLERANCE = 0.5
_FEWEST_STEPS = 500
"""No run is judged before so many steps: to unlearn the even guess of fresh parameters takes hundreds."""
_IMPROVING = 0.02
"""Share by which the loss falls, over half of the time or more, in a run that still learns."""


def expected_first_loss(vocab_size: int, objective: str) -> float:
    """Loss of an untrained model: all tokens, and both labels, equally likely. ln V + ln 2, without NSP ln V."""
    return math.log(vocab_size) + (0.0 if objective == "mlm" else math.log(2))


def first_loss_warning(loss: float | None, vocab_size: int, objective: str) -> str | None:
    """A warning when the loss of step 0 is not that of an untrained model."""
    expected = expected_first_loss(vocab_size, objective)
    if loss is not None and math.isfinite(loss) and abs(loss - expected) <= _FIRST_LOSS_TOLERANCE:
        return None
    shown = "not finite" if loss is None or not math.isfinite(loss) else f"{loss:.3f}"
    parts = "ln V" if objective == "mlm" else "ln V + ln 2"
    return (
        f"the loss of step 0 is {shown}, an untrained model has {parts} = {expected:.3f}: "
        "check model.vocab_size against the tokenizer, model.initializer_range and the data"
    )


def chance_text(chance: Mapping[str, float | None], vocab_size: int, objective: str) -> str:
    """One line on what chance looks like for this store."""
    parts = [f"before training the loss is near {expected_first_loss(vocab_size, objective):.3f}"]
    loss, accuracy = chance.get("chance_mlm_loss"), chance.get("chance_mlm_accuracy")
    if loss is not None:
        parts.append(f"guessing tokens by frequency gives mlm_loss {loss:.3f}")
    if accuracy is not None:
        parts.append(f"always the commonest token gives mlm_accuracy {accuracy:.4f}")
    majority = chance.get("chance_nsp_accuracy")
    if majority is not None and objective != "mlm":
        parts.append(f"always the commoner label gives nsp_accuracy {majority:.3f}")
    return "chance: " + ", ".join(parts)


def patience_steps(warmup_steps: int, steps: int) -> int:
    """After how many steps a model should beat chance: three warm-ups, no less than a tenth of the first schedule's
    `steps`, and no more than all of them; never before step 500, so that a shorter run is not judged at all."""
    return max(_FEWEST_STEPS, min(steps, math.ceil(max(3 * warmup_steps, steps / 10))))


def still_improving(before: float | None, mlm_loss: float | None) -> bool:
    """Whether the masked LM loss fell clearly since `before`, that of half as many steps."""
    return before is not None and mlm_loss is not None and mlm_loss < before * (1 - _IMPROVING)


def stuck_warning(mlm_loss: float | None, chance: Mapping[str, float | None], step: int) -> str | None:
    """A warning when the masked LM loss is no better than guessing tokens by their frequency."""
    guess = chance.get("chance_mlm_loss")
    if guess is None or mlm_loss is None or mlm_loss < guess:
        return None
    return (
        f"at step {step} mlm_loss is {mlm_loss:.3f}, no better than guessing tokens by frequency ({guess:.3f}): "
        "the learning rate may be too high or too low, or the text repeats itself; look at it with bert-jax show"
    )
