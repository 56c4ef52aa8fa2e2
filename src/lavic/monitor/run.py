"""``lavic monitor``: a summary of the run in a folder."""

from __future__ import annotations

from pathlib import Path

from lavic.console import Console, Outcome
from lavic.monitor.config import MonitorSettings
from lavic.monitor.summary import next_step, run_lines, run_values
from lavic.training.run_view import read_run


def run(settings: MonitorSettings, console: Console) -> Outcome:
    """Print where the run stands; that there is none yet is an answer too, not an error."""
    view = read_run(settings.output_dir)
    log = Path(view.log_file) if view.log_file else newest_log(settings.log_dir)
    values = {**run_values(view), "log_file": str(log) if log else None}
    if view.status == "none":
        console.print(f"No run in {settings.output_dir} yet.")
        start = "Start one with ./run_training.sh or `lavic distill`; `lavic demo` shows a small one."
        return Outcome(values, next_step=start, printed=True)
    for line in run_lines(view):
        console.print(line)
    if log is not None:
        console.print(f"\nThe whole log: tail -f {log}")
    return Outcome(values, next_step=next_step(view), printed=True)


def newest_log(log_dir: Path) -> Path | None:
    """The text log that was begun last; their names sort by time."""
    return max(log_dir.glob("training_*.log"), default=None)
