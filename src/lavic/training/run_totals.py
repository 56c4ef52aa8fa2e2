"""What a run's rows come to: counted as they are read, so that the rows themselves need not be kept."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Steps over which rate and time left are averaged: long enough to be steady, short enough to follow a change.
_RATE_WINDOW = 50
# Whole numbers above this are no steps or counts, and a float cannot hold each of them.
_LARGEST = 2**53


@dataclass(frozen=True)
class Validation:
    """One validation; ``fields`` holds all numbers of its row."""

    step: int
    val_loss: float | None
    val_perplexity: float | None
    fields: Mapping[str, Any]

    @property
    def judged_by(self) -> float | None:
        """What the best adapter is chosen by, lower is better: as the row says, or the loss, with EOS if measured."""
        named = (number(self.fields, name) for name in ("judged_by", "val_loss_with_eos"))
        return next((value for value in named if value is not None), self.val_loss)


class RunTotals:
    """The rows of a run so far.

    Attributes:
        losses: (step, train_loss) of every step that has one.
        steps: the last step rows.
        samples, seconds: of all steps that tell both.
        first_time, last_time: seconds since 1970, by the clock of who wrote the rows.
    """

    def __init__(self) -> None:
        self.start: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None
        self.last_step = 0
        self.losses: list[tuple[int, float]] = []
        self.validations: list[Validation] = []
        self.steps: deque[dict[str, Any]] = deque(maxlen=_RATE_WINDOW)
        self.samples = self.seconds = 0.0
        self.skipped = 0
        self.checkpoint_step: int | None = None
        self.first_time: float | None = None
        self.last_time: float | None = None

    @property
    def total_steps(self) -> int | None:
        """How many steps the run is to have."""
        total = (self.start or {}).get("total_steps")
        return total if isinstance(total, int) and 0 <= total <= _LARGEST else None

    @property
    def elapsed_s(self) -> float | None:
        """Seconds from the first row to the last."""
        return None if self.last_time is None or self.first_time is None else self.last_time - self.first_time

    @property
    def end(self) -> dict[str, Any] | None:
        """The end row, if no other came after it."""
        return self.last if self.last is not None and self.last["kind"] == "end" else None

    def add(self, row: dict[str, Any]) -> None:
        """Count a row (``lavic.training.run_log.parse_event``)."""
        if not 0 <= row["step"] <= _LARGEST:
            return
        self.last = row
        self.last_step = max(self.last_step, row["step"])
        moment = number(row, "time")
        if moment is not None:
            self.first_time = moment if self.first_time is None else min(moment, self.first_time)
            self.last_time = moment if self.last_time is None else max(moment, self.last_time)
        match row["kind"]:
            case "start" if self.start is None:
                self.start = row
            case "step":
                self._add_step(row)
            case "validation":
                loss, perplexity = number(row, "val_loss"), number(row, "val_perplexity")
                self.validations.append(Validation(row["step"], loss, perplexity, row))
            case "checkpoint":
                self.checkpoint_step = max(self.checkpoint_step or 0, row["step"])
            case "skipped":
                self.skipped += int(number(row, "count") or 0)

    def _add_step(self, row: dict[str, Any]) -> None:
        self.steps.append(row)
        loss = number(row, "train_loss")
        if loss is not None:
            self.losses.append((row["step"], loss))
        samples, seconds = work_of(row)
        self.samples += samples
        self.seconds += seconds


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a row; None if it holds none under this name."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST and math.isfinite(value) else None


def work_of(row: Mapping[str, Any]) -> tuple[float, float]:
    """Samples and seconds of a step; (0, 0) if it does not tell. Without the two its rate must do."""
    samples, seconds, rate = (number(row, name) for name in ("samples", "seconds", "samples_per_s"))
    if samples is not None and seconds is not None and seconds > 0:
        return samples, seconds
    # Steps are of equal size but for the last of an epoch, so that one stands for all.
    return (1.0, 1 / rate) if rate is not None and rate > 0 else (0.0, 0.0)


def samples_per_s(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """How many samples a second these steps took together."""
    work = [work_of(row) for row in steps]
    seconds = sum(each for _, each in work)
    return sum(samples for samples, _ in work) / seconds if seconds > 0 else None


def eta_s(rows: RunTotals, total: int) -> float | None:
    """Seconds until step ``total`` is done at the rate of the last steps."""
    left = total - rows.last_step
    steps = list(rows.steps)
    own = [seconds for row in steps if (seconds := number(row, "seconds")) is not None]
    times = [number(row, "time") or 0.0 for row in steps]
    gaps = own or [later - earlier for earlier, later in itertools.pairwise(times)]
    if not gaps:
        return None
    # The median: what comes between two steps must not count as a slow step. Validations count on their own.
    return max(0.0, statistics.median(gaps) * left + _validating_s(rows, left))


def _validating_s(rows: RunTotals, left: int) -> float:
    """Seconds that the validations to come will take, if they come as often and last as long as until now."""
    lasted = [seconds for each in rows.validations if (seconds := number(each.fields, "seconds")) is not None]
    if not lasted or left <= 0:
        return 0.0
    during = sum(each.step > 0 for each in rows.validations)
    expected = max(1, round(during * left / max(1, rows.last_step)))
    return statistics.fmean(lasted) * expected
