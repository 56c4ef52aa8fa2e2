"""The live progress bar; imported only where there is a terminal to show it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lavic.rendering import printable, shown


class _Bar:
    """``lavic.console.Progress`` on Rich."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._fields: dict[str, object] = {}

    def advance(self, n: int = 1, **fields: object) -> None:
        self._fields.update(fields)
        text = "  ".join(f"{name} {shown(value)}" for name, value in self._fields.items())
        self._progress.update(self._task, advance=n, fields=Text(printable(text)))


class _Rate(TextColumn):
    """Finished per second, so far as Rich knows it."""

    def render(self, task: object) -> Text:
        speed = getattr(task, "finished_speed", None) or getattr(task, "speed", None)
        return Text(f"{speed:.3g}/s" if speed else "")


#: Two steps must end within it for a rate and a time left; Rich's own 30 s are too few for large steps.
SPEED_PERIOD_S = 600.0


@contextmanager
def live_bar(console: Console, description: str, total: int | None) -> Iterator[_Bar]:
    """A bar with count, rate and time left that vanishes into one last line."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(""),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[fields]}", markup=False),
    )
    with Progress(*columns, console=console, refresh_per_second=4, speed_estimate_period=SPEED_PERIOD_S) as progress:
        yield _Bar(progress, progress.add_task(printable(description), total=total, fields=""))
