"""The live view: the screen of ``lavic.monitor.screen``, kept up to date until one quits."""

from __future__ import annotations

import errno
import os
import time

import rich.console
from rich.console import Group
from rich.live import Live

from lavic.console import Console
from lavic.errors import LavicError
from lavic.monitor.log_tail import LogTail
from lavic.monitor.machine import GpuWatch, ProcessWatch
from lavic.monitor.screen import KEYS, Paper, Snapshot, frame
from lavic.monitor.terminal import QUIT, Keyboard
from lavic.training.run_view import RunReader, RunView

# Where nobody knows how large the paper is: an ordinary terminal, higher.
PIPE_WIDTH, PIPE_HEIGHT = 100, 32
_QUIT_KEYS = {QUIT, "q", "Q", "\x03", "\x04"}


class Watch:
    """Everything that is shown, looked at together.

    Args:
        reader: the run.
        tail: its text log.
    """

    def __init__(self, reader: RunReader, tail: LogTail) -> None:
        self._reader, self._tail = reader, tail
        self._gpus, self._process = GpuWatch(), ProcessWatch()
        self._view = RunView(reader.output_dir, "none")

    def look(self, *, wait: bool = False) -> Snapshot:
        """All of it now; ``wait`` for the GPUs' answer too, which comes at the next look otherwise.

        What cannot be read for the moment (a network disk that is away) is shown as a problem, not raised: a
        view that is open for hours must survive it.
        """
        problem = ""
        try:
            self._view = self._reader.look()
            self._tail.look(self._view)
        except LavicError as error:
            # What is wrong before the place: a long path must not push it over the edge.
            problem = f"{error.problem}: {error.where}" if error.where else error.problem
        return Snapshot(
            view=self._view,
            log=self._tail.path,
            lines=list(self._tail.lines),
            alerts=list(self._tail.alerts),
            alert_count=self._tail.alert_count,
            gpu=self._gpus.wait() if wait else self._gpus.look(),
            process=self._process.look(self._view.pid),
            problem=problem,
        )

    def close(self) -> None:
        """Leave no process behind."""
        self._gpus.close()


def show_live(watch: Watch, name: str, interval: float, console: Console) -> Snapshot:
    """Show a view on the whole terminal until the user quits; other views are a key away.

    Args:
        watch: what to look at.
        name: the view to begin with (a value of ``KEYS``).
        interval: seconds between two looks.
        console: its stdout is a terminal.

    Returns:
        What was seen last.
    """
    screen = rich.console.Console(file=console.stdout, highlight=False)
    shot = watch.look()
    try:
        with Keyboard() as keyboard, _full_screen(screen) as live:
            looked_at = time.monotonic()
            while True:
                _draw(live, screen, name, shot)
                key = keyboard.wait(max(0.0, looked_at + interval - time.monotonic()))
                if key in _QUIT_KEYS:
                    # A tmux window that was made larger meanwhile keeps what is left on the full screen.
                    screen.clear()
                    return shot
                name = KEYS.get(key.lower(), name)
                if not key:
                    looked_at = time.monotonic()
                    shot = watch.look()
    except OSError as error:
        # The window was closed: there is nobody to tell.
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise
        return shot


def _full_screen(screen: rich.console.Console) -> Live:
    return Live(console=screen, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


def _draw(live: Live, screen: rich.console.Console, name: str, shot: Snapshot) -> None:
    try:
        width, height = os.get_terminal_size(screen.file.fileno())
    except OSError:
        width, height = screen.size
    # Not left to Rich, which believes an exported COLUMNS more than a window that was resized.
    screen.size = rich.console.ConsoleDimensions(max(1, width), max(1, height))
    paper = Paper(max(20, width), max(3, height), ascii_only=screen.options.ascii_only)
    live.update(Group(*frame(name, shot, paper)), refresh=True)


def print_once(watch: Watch, name: str, console: Console) -> Snapshot:
    """A view as text, once."""
    shot = watch.look(wait=True)
    screen = rich.console.Console(file=console.stdout, highlight=False)
    is_terminal = console.stdout.isatty()
    # One line less than the terminal has, for the prompt below.
    width, height = (screen.size.width, screen.size.height - 1) if is_terminal else (PIPE_WIDTH, PIPE_HEIGHT)
    encoding = (console.stdout.encoding or "ascii").lower()
    ascii_only = not encoding.startswith("utf")
    paper = Paper(width, height, colour=is_terminal, ascii_only=ascii_only, full_screen=False)
    for line in frame(name, shot, paper):
        if is_terminal:
            screen.print(line, soft_wrap=True)
        else:
            console.print(line.plain.rstrip())
    return shot
