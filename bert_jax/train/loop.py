"""The training loop: restore, step, log, evaluate, save, stop; read it from top to bottom.

Step s (counted from 0 over all phases) trains on batch s of its phase; what is named `step` in files is the number of
updates done, so checkpoint 300 is the state before step 300. The loop never builds feeds: it is handed `feed` and
calls it after restoring and when a phase begins.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import files
from bert_jax.config import Config, step_range
from bert_jax.console import log, progress, warn
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import AnyConfig
from bert_jax.train.chance import chance_text, first_loss_warning, patience_steps, still_improving, stuck_warning
from bert_jax.train.checkpoint import Checkpoints
from bert_jax.train.digests import leaves_by_path
from bert_jax.train.evaluation import Evaluation, opened
from bert_jax.train.metrics import PRETRAINING, Counters, Measures, Meter, MetricsWriter, read_metrics
from bert_jax.train.run import Run
from bert_jax.train.schedule import stretches
from bert_jax.train.signals import Interrupted, stop_requests
from bert_jax.train.tracing import trace
from bert_jax.train.watchdog import watchdog

Feed = Callable[[int], Iterator[Mapping[str, np.ndarray]]]
OnMetrics = Callable[[dict[str, Any]], None]
OWN_EVALUATION = ("", "eval")
"""Names of the evaluation on the run's own held-out part: its keys carry no name, its loss decides `best`."""


class Judge(Protocol):
    """Follows the evaluations of a run and may end it before its last step."""

    def evaluated(self, line: Mapping[str, Any], params: Any) -> bool:
        """Told of every evaluation: its line of metrics and the parameters it was made with. Whether to end here."""

    def ended(self, step: int) -> bool:
        """Whether a run restored at `step` had ended there."""


def evaluation_interval(config: AnyConfig) -> int:
    """Steps between evaluations: as configured, or a tenth of the run."""
    return config.evaluate.every or max(1, config.total_steps // 10)


def train(
    config: AnyConfig,
    run: Run,
    program_for_phase: Callable[[int], Any],
    feed: Feed,
    evaluations: Mapping[str, Evaluation] | None = None,
    *,
    on_metrics: OnMetrics | None = None,
    init_params: Any = None,
    chance: Mapping[str, float | None] | None = None,
    flops: Callable[[Mapping[str, float]], float] | None = None,
    peak_flops: float | None = None,
    measures: Measures = PRETRAINING,
    judge: Judge | None = None,
    asked: list[str] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train `run` to the end of its configuration, from its newest good checkpoint or from the beginning.

    * `program_for_phase(i)`: the compiled steps of phase i (`train.step.Program`), asked for when needed.
    * `feed(step)`: host batches from global step `step` to the end of its phase.
    * `evaluations`: by name, '' for the run's own held-out part; each `(program, params) -> dict`.
    * `on_metrics`: called with every line of `metrics.jsonl`, on the first process.
    * `init_params`: start from these, when there is no checkpoint yet.
    * `chance`: what chance scores on this store (see chance.py); a fine-tuning run is not compared with it.
    * `flops(sums)`: training FLOPs of the sums `sequences real_tokens real_tokens_squared tokens mlm_count`;
      `peak_flops`: per second, of all devices. Without either `mfu` is null.
    * `measures`: what the steps measure, see metrics.py; `judge`: is shown every evaluation and may end the run.
    * `constants`: what every line of training metrics says besides.
    * `asked`: is given the signal that asked to stop, which may be at the last step, where nothing is left to stop.

    Returns `step total_steps stopped`, the last metrics and the last evaluation. Errors: `BertJaxError` for a run
    that cannot be restored, a feed that ends early, too many non-finite updates in a row, or a last save that failed.
    """
    total, chance, evaluations = config.total_steps, dict(chance or {}), dict(evaluations or {})
    programs = functools.cache(program_for_phase)
    traced = None if config.log.profile is None else step_range(config.log.profile)
    first_process = jax.process_index() == 0

    with ExitStack() as stack:
        if first_process:
            stack.enter_context(run.lock())
        stop = stack.enter_context(stop_requests())
        watch = stack.enter_context(watchdog(config.log.watchdog_seconds))
        keeper = Checkpoints(run.checkpoints, config.checkpoint.keep, config.checkpoint.keep_every)
        checkpoints = stack.enter_context(keeper)

        # Where the run stands: the newest good checkpoint, or the beginning.
        program = programs(config.span_at(max(checkpoints.steps(), default=0)).phase)
        restored = checkpoints.restore(program.abstract_state())
        if restored is not None:
            step, state, counters = restored.step, restored.state, Counters.from_dict(restored.counters)
        else:
            run.require_nothing_lost()
            step, state, counters = 0, program.init_state(init_params), Counters()
        start, failures_before = step, counters.save_failures
        owed = counters.owes_evaluation = counters.owes_evaluation and bool(evaluations)
        ended = judge is not None and judge.ended(step - 1 if owed else step)
        _announce(run, config, step, ended, None if init_params is not None else chance)

        # From here on every number goes through the meter (device to host, once per interval) and the writer.
        meter = Meter(counters, flops, peak_flops, measures)
        tensorboard = run.tensorboard if config.log.tensorboard else None
        writer = stack.enter_context(closing(MetricsWriter(run.metrics, tensorboard, step, owed)))
        advance = stack.enter_context(progress("training", total, "steps", done=step) if first_process else _silence())
        at_step = stack.enter_context(trace(run.profile, traced))

        @contextmanager
        def aside(doing: str) -> Iterator[None]:
            with watch.longer(doing), meter.stopped_clock():
                yield

        def report(line: dict[str, Any]) -> None:
            writer.write(line)
            if on_metrics is not None and first_process:
                on_metrics(line)

        def evaluate() -> tuple[float | None, bool]:
            with aside("evaluating"):
                line, score = _evaluate(evaluations, program, state.params, step)
            report(line)
            log(_evaluation_text(line))
            with aside("evaluating"):
                return score, judge is not None and judge.evaluated(line, state.params)

        def save() -> None:
            with aside("saving"):
                checkpoints.save(step, state, counters.to_dict(), score, config.span_at(step - 1).phase)

        text, stopping, score, noted = "", step < total and stop.reached(), None, step > 0
        if owed and not (stopping or ended):  # a signal broke it off
            phase = config.span_at(step - 1).phase
            program = programs(phase)  # of the step that it follows
            with suppress(Interrupted):
                score, ended = evaluate()
                counters.owes_evaluation = False
                # A checkpoint that only the stop made has no score: without the stop it would not be there.
                due = step % config.checkpoint.every == 0 or step == total or ended
                checkpoints.amend(step, counters.to_dict(), score if due else None, phase)
            stopping = counters.owes_evaluation
        work = stack.enter_context(closing(_work(config, programs, feed, step)))
        for program, batch, fresh in work if not (stopping or ended) else ():
            # One step: dispatched, not waited for. The first of a phase compiles, so it counts in no speed.
            at_step(step - start)
            with aside("the first step") if fresh else nullcontext():
                state, metrics = program.train_step(state, program.place(batch))
                if fresh:
                    jax.block_until_ready(metrics)
            meter.add(step, metrics, timed=not fresh)
            step += 1
            watch.step(step)
            last, stopping = step == total, stop.reached()

            # A line of metrics; at the same time the checks that need numbers on the host.
            if step % config.log.every == 0 or step == 1 or last:
                checkpoints.poll()
                if first_process and not noted and checkpoints.saved:
                    run.note("saved", step=checkpoints.saved)  # from here on there is something to lose
                    noted = True
                counters.save_failures = failures_before + checkpoints.failures
                line = meter.line(step) | dict(constants or {})
                report(line)
                _stop_if_nonfinite(meter, config, run, checkpoints, state)
                if isinstance(config, Config):
                    _warn_if_no_better_than_chance(line, config, counters, chance, init_params is not None)
                text = _progress_text(line)
            advance(step, text)

            # Evaluation on held-out examples.
            score = None
            if evaluations and (step % evaluation_interval(config) == 0 or last):
                try:
                    score, ended = evaluate()
                except Interrupted:
                    counters.owes_evaluation = stopping = True

            # A checkpoint, written in the background.
            if step % config.checkpoint.every == 0 or last or stopping or ended:
                save()
            if stopping or ended:
                break

        # The end, or a stop: nothing is claimed before it is on disk.
        meter.fetch()
        finished = (ended or step == total) and not counters.owes_evaluation
        if stopping and not finished:
            log(f"{stop.signal}: stopping at step {step} of {total}, saving")
        with watch.longer("saving"):
            checkpoints.wait()
        if first_process and (start < step or owed or not finished):
            run.note("finished" if finished else "stopped", step=step)
        log(f"{'finished' if finished else 'stopped'} at step {step} of {total}: {run.path}")
    if asked is not None and (stopping or (stop.signal is not None and jax.process_count() == 1)):
        asked.append(str(stop.signal))
    return {**_summary(run, step, total, counters), "stopped": not finished}


# --- what is said at the beginning and the end -----------------------------------------------------------------------


def _announce(run: Run, config: AnyConfig, step: int, ended: bool, chance: Mapping[str, float | None] | None) -> None:
    total = config.total_steps
    if jax.process_index() == 0:
        run.note("started", step=step)
    if ended or step >= total:
        log(f"{run.path} stands at step {step} of {total}: nothing is left to train")
        return
    log(f"{'resuming' if step else 'training'} {run.path} from step {step} of {total}")
    if chance and isinstance(config, Config):
        log(chance_text(chance, config.model.known_vocab_size, config.train.objective))


def _progress_text(line: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {line[key]:.{digits}f}"
        for name, key, digits in (("loss", "loss", 3), ("mlm", "mlm_accuracy", 3), ("nsp", "nsp_accuracy", 3))
        if line.get(key) is not None
    ]
    if line.get("sequences_per_second") is not None:
        parts.append(f"{line['sequences_per_second']:,.1f} sequences/s")
    return "  ".join(parts)


def _evaluation_text(line: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in line.items() if key.startswith("eval_") and isinstance(value, float)}
    return f"step {line['step']}: " + ", ".join(f"{key} {value:.4f}" for key, value in shown.items())


def _summary(run: Run, step: int, total: int, counters: Counters) -> dict[str, Any]:
    """The last line of each kind, without their own step and time."""
    merged: dict[str, Any] = {}
    for line in read_metrics(run.metrics):
        merged |= {key: value for key, value in line.items() if key not in ("step", "time")}
    seconds = round(counters.elapsed_seconds, 3)
    return {"step": step, "total_steps": total, **merged, "elapsed_seconds": seconds}


# --- inside the loop -------------------------------------------------------------------------------------------------


class _Work(NamedTuple):
    """One step to do; `fresh` for the first one of its phase in this process."""

    program: Any
    batch: Mapping[str, np.ndarray]
    fresh: bool


def _work(config: AnyConfig, programs: Callable[[int], Any], feed: Feed, step: int) -> Generator[_Work, None, None]:
    """All steps from `step` to the end: each phase has its own program and feed, asked for when it begins."""
    for span in config.spans:
        if step >= span.end:
            continue
        program = programs(span.phase)
        with opened(feed(step)) as batches:
            for index in range(step, span.end):
                batch = next(batches, None)
                if batch is None:
                    raise BertJaxError(f"the feed ended before step {index}: it must reach step {span.end}")
                yield _Work(program, batch, index == step)
        step = span.end


def _evaluate(
    evaluations: Mapping[str, Evaluation], program: Any, params: Any, step: int
) -> tuple[dict[str, Any], float | None]:
    line: dict[str, Any] = {"step": step, "time": time.time()}
    score = None
    for name, evaluation in evaluations.items():
        found = evaluation(program, params)
        own = name in OWN_EVALUATION
        line |= {f"eval_{key}" if own else f"eval_{name}_{key}": value for key, value in found.items()}
        if own:
            score = found.get("mlm_loss")
    return files.finite(line), score


def _warn_if_no_better_than_chance(
    line: Mapping[str, Any], config: Config, counters: Counters, chance: Mapping[str, float | None], initialized: bool
) -> None:
    step, model, objective = line["step"], config.model, config.train.objective
    if step == 1 and not initialized:
        text = first_loss_warning(line["loss"], model.known_vocab_size, objective)
        if text:
            warn(text)
    first = stretches(config)[0]
    patience, loss = max(counters.judge_at, patience_steps(first.warmup_steps, first.steps)), line["mlm_loss"]
    if counters.warned_chance or step < patience / 2:
        return
    if counters.judged_from is None:
        counters.judged_from = loss
    if step < patience:
        return
    text = stuck_warning(loss, chance, step)
    if text and still_improving(counters.judged_from, loss):
        counters.judged_from, counters.judge_at = loss, 2 * step  # give it as long again
        return
    counters.warned_chance = True  # judged once, whatever came out
    if text:
        warn(text)


def _stop_if_nonfinite(meter: Meter, config: AnyConfig, run: Run, checkpoints: Checkpoints, state: Any) -> None:
    row = meter.take_longest_row()
    if row is None:
        return
    steps = f"step {row.last}" if row.first == row.last else f"steps {row.first} to {row.last}"
    if row.length < config.nonfinite_limit:
        warn(f"the update of {steps} was not finite and was skipped")
        return
    saved = checkpoints.steps()
    newest = f"newest good checkpoint: {run.path}@{saved[-1]}" if saved else "no checkpoint was saved yet"
    raise BertJaxError(
        f"{row.length} update(s) in a row were not finite ({steps}) and were skipped; largest tensors: "
        f"{_largest(state.params)}; {newest}; a resume would meet the same: lower optimizer.learning_rate or "
        "optimizer.clip_norm with --change, or raise nonfinite_limit"
    )


def _largest(params: Any, count: int = 3) -> str:
    leaves = leaves_by_path(params)
    sizes = jax.device_get(jax.jit(lambda tree: [jnp.max(jnp.abs(leaf)) for leaf in tree])(list(leaves.values())))
    ranked = sorted(zip(map(float, sizes), leaves, strict=True), key=lambda pair: (not math.isnan(pair[0]), -pair[0]))
    return ", ".join(f"{path} {size:.3g}" for size, path in ranked[:count])


@contextmanager
def _silence() -> Iterator[Callable[..., None]]:
    yield lambda completed, text="": None
