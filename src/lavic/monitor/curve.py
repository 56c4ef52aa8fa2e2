"""Loss curves in characters: dots of Braille where the terminal can show them, else asterisks."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lavic.rendering import shown
from lavic.training.run_totals import Validation
from lavic.training.run_view import smoothing_window

CURVE_WIDTH, CURVE_HEIGHT = 60, 8
#: What a character of a curve belongs to; the screen gives each a colour.
Mark = Literal["", "axis", "train", "mean", "validation", "best"]
Cell = tuple[str, Mark]

_LABEL = 10  # characters at the left for the loss, its axis included
_LOOKS = 16  # steps drawn in a column of dots: more would only fill it
# The dots of a Braille character (from U+2800 on), by row and column; three rows of the two columns are numbered
# downwards, the fourth was added to the standard later.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True)
class Losses:
    """What is drawn: (step, loss) of each step, the validations, and which of them is the best."""

    train: Sequence[tuple[int, float]]
    validations: Sequence[Validation] = ()
    best: Validation | None = None

    @property
    def measured(self) -> list[tuple[int, float, bool]]:
        """Step, loss and whether it is the best, of each validation that has a loss."""
        return [(each.step, each.val_loss, each is self.best) for each in self.validations if each.val_loss is not None]


def draw_losses(
    losses: Losses, width: int, height: int, *, single_steps: bool = True, ascii_only: bool = False
) -> list[list[Cell]]:
    """The losses over the steps.

    Args:
        losses: what to draw.
        width, height: in characters; the labels of both axes are inside.
        single_steps: also draw the loss of single steps, which only colour tells from their mean.
        ascii_only: draw with ``*``, ``.``, ``o`` (validation) and ``O`` (the best).

    Returns:
        ``height`` rows of characters with what they belong to; none if there are fewer than two steps or no room.
    """
    if len(losses.train) < 2 or width < _LABEL + 10 or height < 4:
        return []
    area = _Area(losses, width - _LABEL, height - 1, 1 if ascii_only else 2, 1 if ascii_only else 4)
    if single_steps:
        area.draw_single_steps()
    area.draw_mean()
    area.draw_validations("oO" if ascii_only else "◇◆")
    return [*area.rows(ascii_only), _step_axis(losses.train, width)]


def legend(losses: Losses, *, single_steps: bool = True, ascii_only: bool = False) -> list[Cell]:
    """What is what in a drawing, one line."""
    dot, line, open_mark, full_mark = "*-oO" if ascii_only else "·━◇◆"
    cells: list[Cell] = [(f"{dot} train_loss   ", "train")] if single_steps else []
    cells.append((f"{line} mean of {smoothing_window(len(losses.train))} steps", "mean"))
    if losses.measured:
        cells += [(f"   {open_mark} val_loss", "validation"), (f"   {full_mark} best", "best")]
    return cells


class _Area:
    """A grid of dots, ``across`` x ``down`` of them to a character."""

    def __init__(self, losses: Losses, columns: int, lines: int, across: int, down: int) -> None:
        self._losses, self._across, self._down = losses, across, down
        self._columns, self._lines = columns, lines
        self._width, self._height = columns * across, lines * down
        steps = [step for step, _ in losses.train]
        self._first, self._last = steps[0], max(steps[-1], steps[0] + 1)
        train = [loss for _, loss in losses.train]
        self._looked_at = range(0, len(train), max(1, len(train) // (self._width * _LOOKS)))
        self._means = _trailing_means(train, self._width)
        self._low, self._high = self._bounds([train[i] for i in self._looked_at])
        self._dots: list[list[int]] = [[0] * columns for _ in range(lines)]
        self._marks: list[list[Mark]] = [[""] * columns for _ in range(lines)]
        self._signs: dict[tuple[int, int], str] = {}

    def _bounds(self, looked_at: list[float]) -> tuple[float, float]:
        """Lowest and highest loss that fit in: single odd steps are drawn at the rim instead of squeezing the rest."""
        ordered = sorted(looked_at)
        edge = len(ordered) // 50
        usual = ordered[edge : len(ordered) - edge]
        all_shown = [*usual, *(mean for _, mean in self._means), *(loss for _, loss, _ in self._losses.measured)]
        low, high = min(all_shown), max(all_shown)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def _place(self, step: int, loss: float) -> tuple[int, int]:
        share = (step - self._first) / (self._last - self._first)
        x = round(min(max(share, 0.0), 1.0) * (self._width - 1))
        y = round((self._high - loss) / (self._high - self._low) * (self._height - 1))
        return x, min(max(y, 0), self._height - 1)

    def _dot(self, x: int, y: int, mark: Mark) -> None:
        line, column = y // self._down, x // self._across
        self._dots[line][column] |= _DOTS[y % self._down][x % self._across]
        self._marks[line][column] = mark

    def draw_single_steps(self) -> None:
        for i in self._looked_at:
            self._dot(*self._place(*self._losses.train[i]), "train")

    def draw_mean(self) -> None:
        """A connected line: where it is steep, the dots between two columns are set too."""
        places = [self._place(self._losses.train[i][0], mean) for i, mean in self._means]
        for (x, y), (next_x, next_y) in itertools.pairwise(places):
            steps = max(1, next_x - x, abs(next_y - y))
            for part in range(steps + 1):
                across, down = round((next_x - x) * part / steps), round((next_y - y) * part / steps)
                self._dot(x + across, y + down, "mean")

    def draw_validations(self, signs: str) -> None:
        # The best last: it must not be covered.
        for step, loss, is_best in sorted(self._losses.measured, key=lambda each: each[2]):
            x, y = self._place(step, loss)
            line, column = y // self._down, x // self._across
            self._signs[line, column] = signs[is_best]
            self._marks[line][column] = "best" if is_best else "validation"

    def rows(self, ascii_only: bool) -> list[list[Cell]]:
        labels = {0: self._high, self._lines - 1: self._low}
        if self._lines >= 7 and self._lines % 2:
            labels[self._lines // 2] = (self._low + self._high) / 2
        rows: list[list[Cell]] = []
        for line in range(self._lines):
            label = shown(labels[line]) if line in labels else ""
            row: list[Cell] = [(f"{label:>{_LABEL - 1}}" + ("|" if ascii_only else "│"), "axis")]
            for column in range(self._columns):
                dots, mark = self._dots[line][column], self._marks[line][column]
                plain = {"train": ".", "mean": "*"}.get(mark, " ") if ascii_only else chr(0x2800 + dots)
                row.append((self._signs.get((line, column)) or (plain if dots else " "), mark))
            rows.append(row)
        return rows


def _trailing_means(values: Sequence[float], columns: int) -> list[tuple[int, float]]:
    """For up to ``columns`` places among the values: the place, and the mean of the values that lead up to it."""
    window = smoothing_window(len(values))
    sums = [0.0, *itertools.accumulate(values)]
    count = min(columns, len(values))
    places = sorted({round(i * (len(values) - 1) / max(1, count - 1)) for i in range(count)})
    return [(i, (sums[i + 1] - sums[max(0, i + 1 - window)]) / min(window, i + 1)) for i in places]


def _step_axis(train: Sequence[tuple[int, float]], width: int) -> list[Cell]:
    first, last = f"step {train[0][0]:,}", f"{train[-1][0]:,}"
    room = width - _LABEL - len(first)
    return [(" " * _LABEL + first + (last.rjust(room) if len(last) < room else ""), "axis")]


def loss_curve(losses: Sequence[tuple[int, float]], width: int = CURVE_WIDTH, height: int = CURVE_HEIGHT) -> list[str]:
    """The training loss over the steps, drawn with asterisks; a column is the median of its share of steps.

    Returns:
        No lines if there are fewer than two steps.
    """
    if len(losses) < 2:
        return []
    columns = _columns([loss for _, loss in losses], min(width, len(losses)))
    low, high = min(columns), max(columns)
    span = high - low or 1.0
    levels = [round((value - low) / span * (height - 1)) for value in columns]
    lines = ["", f"train loss, step {losses[0][0]:,} to {losses[-1][0]:,}"]
    for level in range(height - 1, -1, -1):
        label = {height - 1: f"{high:.3f}", 0: f"{low:.3f}"}.get(level, "")
        lines.append(f"{label:>9} |{''.join('*' if at == level else ' ' for at in levels)}".rstrip())
    return lines


def _columns(values: Sequence[float], count: int) -> list[float]:
    """Values in ``count`` groups of nearly equal size, the median of each: one odd step bends no curve."""
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    return [statistics.median(values[a:b]) for a, b in itertools.pairwise(edges)]
