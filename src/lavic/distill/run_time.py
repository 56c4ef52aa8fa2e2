"""What a dry run takes, and what follows from its times for the whole run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from lavic.distill.config import DistillSettings
from lavic.distill.samples import costs
from lavic.training.loaders import Sample
from lavic.training.loop import LoopSettings
from lavic.training.sampler import steps_per_epoch

#: Steps that count for no time: kernels are chosen, workers start, memory is fetched for the first time.
WARM_UP = 3


@dataclass(frozen=True)
class Timings:
    """What was measured.

    Attributes:
        long_step_s: seconds of a step of the longest samples, the median.
        step_s: seconds of an ordinary step, the mean; what the whole run is made of.
        validation_s: seconds of a validation of the whole validation set.
        save_s: seconds that writing a checkpoint takes.
        start_s: seconds from the start to the first step: reading, loading.
    """

    long_step_s: float
    step_s: float
    validation_s: float
    save_s: float
    start_s: float


@dataclass(frozen=True)
class Plan:
    """How often the whole run does what.

    Attributes:
        steps: optimizer steps.
        validations: at the ends of epochs and, where asked for, in between.
        saves: checkpoints, those of each validation included.
    """

    steps: int
    validations: int
    saves: int


def longest(samples: list[Sample], count: int) -> list[Sample]:
    """The ``count`` that cost most, the dearest first; all over again where there are fewer."""
    ordered = _dearest_first(samples)
    return list(itertools.islice(itertools.cycle(ordered), count))


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """At most ``count`` samples of all lengths, the longest among them."""
    ordered = _dearest_first(samples)
    if len(ordered) <= count:
        return ordered
    return [ordered[at * len(ordered) // count] for at in range(count)]


def tokens_of(sample: Sample) -> int:
    """Prompt, description and EOS."""
    return len(sample.sequence.input_ids)


def _dearest_first(samples: list[Sample]) -> list[Sample]:
    """By the tokens that gradients go through, then by all: a long title costs little."""
    order = sorted(zip(costs(samples), map(tokens_of, samples), itertools.count(), strict=False), reverse=True)
    return [samples[at] for *_, at in order]


def after_warm_up(seconds: list[float]) -> list[float]:
    """Without the first few; of very few, the last."""
    return seconds[WARM_UP:] or seconds[-1:]


def plan_of(loop: LoopSettings, settings: DistillSettings, samples: int, timings: Timings) -> Plan:
    """How often the whole run steps, validates and saves, if it does not stop early."""
    per_epoch = steps_per_epoch(samples, settings.batch_size, settings.gradient_accumulation)
    total = loop.total_steps(per_epoch)
    ends = {*range(per_epoch, total + 1, per_epoch), total}
    validated = ends | (
        set(range(loop.validate_every, total + 1, loop.validate_every)) if loop.validate_every else set()
    )
    saves = len(validated) + 1
    if loop.checkpoint_steps:
        saves = len(validated | set(range(loop.checkpoint_steps, total + 1, loop.checkpoint_steps))) + 1
    elif loop.checkpoint_minutes:
        saves += int(total * timings.step_s / (60 * loop.checkpoint_minutes))
    return Plan(total, len(validated) + settings.validate_before_training, saves)


def whole_run_s(plan: Plan, timings: Timings) -> float:
    """Seconds that the whole run will take."""
    return (
        timings.start_s
        + plan.steps * timings.step_s
        + plan.validations * timings.validation_s
        + plan.saves * timings.save_s
    )
