"""A terminal that is watched: single keys, a change of its size, and signals, without losing its order."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType, TracebackType
from typing import Any, Self

_LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What ``Keyboard.wait`` returns for these, beside the characters that were typed.
QUIT, RESIZED = "quit", "resized"


class Keyboard:
    """Reads keys as they are pressed while the block runs; afterwards the terminal is as it was before.

    Signals that would end the process only make ``wait`` return ``QUIT``, so whoever waits can leave in order.
    Ctrl-Z does nothing inside: it would leave a shell in the middle of a full screen.

    Args:
        keys: False only waits for signals, and leaves the terminal as it is.
    """

    def __init__(self, *, keys: bool = True) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or not a file at all
            self._descriptor = sys.stdin.fileno() if keys and sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._events: list[str] = []

    def __enter__(self) -> Self:
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._old_wake = signal.set_wakeup_fd(self._wake_in, warn_on_full_buffer=False)
        for number in (*_LEAVE, signal.SIGWINCH):
            self._handlers[number] = signal.signal(number, self._note)
        if self._descriptor is not None:
            with contextlib.suppress(termios.error):
                self._before = termios.tcgetattr(self._descriptor)
                tty.setcbreak(self._descriptor)
                modes = termios.tcgetattr(self._descriptor)
                modes[6][termios.VSUSP] = b"\0"  # the value that disables it (_POSIX_VDISABLE)
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, modes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None and self._before is not None:
            with contextlib.suppress(termios.error):
                # What was typed and not read must not become the shell's next command.
                termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wake)
        os.close(self._wake_out)
        os.close(self._wake_in)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._events.append(RESIZED if number == signal.SIGWINCH else QUIT)

    def wait(self, seconds: float) -> str:
        """The next key, ``QUIT`` or ``RESIZED``; empty if ``seconds`` went by without any."""
        until = time.monotonic() + seconds
        while not self._events:
            left = until - time.monotonic()
            if left <= 0:
                return ""
            watched = [self._wake_out] + ([self._descriptor] if self._descriptor is not None else [])
            ready, _, _ = select.select(watched, [], [], left)
            if self._wake_out in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_out, 512)
            if self._descriptor in ready:
                self._read_keys()
        return self._events.pop(0)

    def _read_keys(self) -> None:
        assert self._descriptor is not None, "only a terminal is watched for keys"
        try:
            typed = os.read(self._descriptor, 64)
        except OSError:  # how Linux says that the terminal is gone
            typed = b""
        if typed.startswith(b"\x1b"):
            return  # an arrow or function key: several characters, none of which is meant
        text = typed.decode("utf-8", "replace")
        self._events += list(text) if text else [QUIT]
