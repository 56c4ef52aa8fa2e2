"""Ctrl-C in a long run: the first one lets the step end and saves it, the second one stops at once.

A validation may take minutes, so it asks between its batches (``check``) and is given up.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self


def stopping_signals() -> list[signal.Signals]:
    """Ctrl-C, the polite kill, and a terminal that is closed, unless that is to be ignored (``nohup``)."""
    kinds = [signal.SIGINT, signal.SIGTERM]
    return kinds if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*kinds, signal.SIGHUP]


class StopRequested(Exception):  # noqa: N818, it is a wish and no error
    """Work that can be done again later is given up, as the user wants the run to stop."""


class Interrupts:
    """While the block runs, the signals that end a run set ``requested`` once; after that they act as usual.

    Python raises KeyboardInterrupt wherever it happens to be, and swallows it inside a destructor; a run
    that looks at ``requested`` between its steps ends in order and loses nothing.

    Args:
        notice: called with a sentence for the user when the first signal comes.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self.requested = False
        self._notice = notice
        self._before: dict[signal.Signals, object] = {}
        self._owner = os.getpid()

    def check(self) -> None:
        """Give up what is under way, if the user wants that.

        Raises:
            StopRequested: a signal has come.
        """
        if self.requested:
            raise StopRequested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a process forked meanwhile; it ends when this one's run does
        self.requested = True
        self._restore()
        self._notice("Stopping after this step; once more stops at once.")

    def _restore(self) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)  # type: ignore[arg-type]
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._handle) for kind in stopping_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
