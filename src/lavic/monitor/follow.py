"""The log of a run as it is written, until the run ends."""

from __future__ import annotations

from lavic.console import Console
from lavic.monitor.log_tail import LogTail
from lavic.monitor.terminal import QUIT, Keyboard
from lavic.training.run_view import RunReader, RunView

# What of the log is shown at the beginning: enough to know where one is.
FIRST_LINES = 20
_GOES_ON = ("running", "starting")


def follow_log(reader: RunReader, tail: LogTail, interval: float, console: Console, *, once: bool = False) -> RunView:
    """Print the last lines of the log and then each new one; ends with the run, or when the user leaves.

    A run that is replaced or resumed meanwhile writes another log, which is then followed.

    Args:
        once: only the last lines.

    Returns:
        The run as it was at the end.
    """
    view = reader.look()
    tail.look(view)
    path = tail.path
    for line in list(tail.lines)[-FIRST_LINES:]:
        console.print(line)
    if once:
        return view
    with Keyboard(keys=False) as keyboard:
        while view.status in _GOES_ON and keyboard.wait(interval) != QUIT:
            # The run first: what it wrote before its end is then in the log.
            view = reader.look()
            for line in _new_lines(tail, view, path, console):
                console.print(line)
            path = tail.path
    return view


def _new_lines(tail: LogTail, view: RunView, path: object, console: Console) -> list[str]:
    new = tail.look(view)
    if tail.path != path and path is not None:
        console.info(f"-- another log: {tail.path} --")
    return new
