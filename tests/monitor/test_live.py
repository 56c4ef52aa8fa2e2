"""The live view in a pseudo-terminal, beside a run that is written here."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavic.console import Console
from lavic.folders import FolderLock
from lavic.monitor.config import MonitorSettings
from lavic.monitor.run import run
from lavic.training.run_log import RunLog

PATIENCE_S = 60.0
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78])")
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
SHOW_CURSOR = "\x1b[?25h"


class Terminal:
    """``lavic monitor`` in a terminal of its own; what it writes is kept."""

    def __init__(self, *arguments: str, width: int = 80, height: int = 24, **environment: str) -> None:
        self.parent, child = pty.openpty()
        self.resize(width, height)
        self.modes = termios.tcgetattr(child)

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "lavic.cli.main", "monitor", *arguments],
            env={**os.environ, "TERM": "xterm", "PATH": "", **environment},
            stdin=child,
            stdout=child,
            stderr=child,
            preexec_fn=take_terminal,
        )
        self.child = child  # kept open: its modes are looked at when the process is gone
        self.raw = ""
        self.seen = 0

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.parent, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.parent, keys.encode())

    def wait_for(self, text: str) -> str:
        """What was written since the last wait, up to where ``text`` appears in it."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            new = self._text()
            if text in new:
                self.seen = len(self.raw)
                return new
            self._read(0.5)
        raise AssertionError(f"{text!r} did not appear in:\n{self._text()}")

    def end(self) -> int:
        """The exit code, once the process has ended."""
        until = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < until:
            self._read(0.05)
        self._read(0.05)
        return self.process.wait(timeout=1)

    def is_in_order(self) -> bool:
        """Whether modes, screen and cursor are as they were before."""
        same = termios.tcgetattr(self.child) == self.modes
        back = self.raw.count(ENTER) == self.raw.count(LEAVE) and self.raw.rfind(SHOW_CURSOR) > self.raw.rfind(
            "\x1b[?25l"
        )
        return same and back

    def _text(self) -> str:
        return _ESCAPES.sub("", self.raw[self.seen :])

    def _read(self, seconds: float) -> None:
        while select.select([self.parent], [], [], seconds)[0]:
            try:
                block = os.read(self.parent, 65536)
            except OSError:
                return
            self.raw += block.decode("utf-8", "replace")
            seconds = 0.0

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.parent)
        os.close(self.child)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    return ["--output_dir", str(tmp_path / "out"), "--log_dir", str(tmp_path / "logs"), "--interval", "0.1"]


def new_run(tmp_path: Path, **options: int) -> RunLog:
    log = RunLog(tmp_path / "out", tmp_path / "logs", tensorboard=False, **options)
    log.start("distill", total_steps=10)
    log.step(1, train_loss=0.9, lr=0.1)
    return log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RunLog]:
    """A run that goes on."""
    with new_run(tmp_path) as log:
        yield log


@pytest.fixture
def terminal(log: RunLog, flags: list[str]) -> Iterator[Terminal]:
    """The monitor of that run, which has shown its first screen."""
    terminal = Terminal(*flags)
    terminal.wait_for("q quit")
    yield terminal
    terminal.close()


def test_it_shows_what_comes_until_q_and_after_the_end(terminal: Terminal, log: RunLog, tmp_path: Path) -> None:
    assert ENTER in terminal.raw
    log.step(2, train_loss=0.8, lr=0.1)
    log.validation(2, val_loss=0.535, val_perplexity=1.7074)
    terminal.wait_for("1.7074  best")
    terminal.wait_for("step 2 of 10 (20 %)")
    terminal.wait_for("no NVIDIA GPU")
    with (tmp_path / "out" / "skipped.jsonl").open("w", encoding="utf-8") as file:
        file.write('{"file": "x", "where": "1", "key": "", "reason": "the file is empty"}\n')
    terminal.wait_for("left out       1 (the file is empty)")
    terminal.press("e")
    terminal.wait_for("        1  the file is empty")
    log.warn("it gets hot")
    terminal.wait_for("WARNING it gets hot")
    terminal.press("f")
    terminal.wait_for("val_loss=0.5350 val_perplexity=1.7074")
    terminal.press("\x1b[Al")  # an arrow key means nothing, not even in one breath with another
    log.end()
    terminal.wait_for("finished")
    terminal.press("q")
    assert terminal.end() == 0
    assert terminal.is_in_order()
    assert "distill in " in terminal._text().split(LEAVE)[-1]


def test_a_window_may_change_its_size(terminal: Terminal) -> None:
    terminal.resize(120, 40)
    # Drawn anew at the new width: a tenth is done, and the bar is as wide as the window.
    terminal.wait_for("█" * 12 + "░" * 108)
    terminal.resize(40, 10)
    terminal.wait_for("\n" + "█" * 4 + "░" * 36 + "\r")
    terminal.press("q")
    assert terminal.end() == 0
    assert terminal.is_in_order()


def test_ctrl_c_and_a_polite_kill_leave_in_order(terminal: Terminal, flags: list[str]) -> None:
    terminal.press("\x03")
    assert terminal.end() == 0
    assert terminal.is_in_order()
    second = Terminal(*flags)
    second.wait_for("q quit")
    second.process.send_signal(signal.SIGTERM)
    assert second.end() == 0
    assert second.is_in_order()
    second.close()


def test_it_survives_runs_that_come_and_go(terminal: Terminal, log: RunLog, tmp_path: Path) -> None:
    log.end("interrupted")
    log.close()
    terminal.wait_for("--resume")
    with FolderLock(tmp_path / "out"):
        # Nobody is kept out by it, and a run that resumes is seen.
        with new_run(tmp_path, resume_step=1, resume_rows=2) as resumed:
            resumed.step(2, train_loss=0.7, lr=0.1)
            terminal.wait_for("step 2 of 10")
        (tmp_path / "out" / "events.jsonl").unlink()
        terminal.wait_for("starting")
    terminal.wait_for("No run here yet.")
    with new_run(tmp_path) as other:
        other.step(3, train_loss=0.6, lr=0.1)
        terminal.wait_for("step 3 of 10")
    (tmp_path / "out" / "events.jsonl").unlink()
    (tmp_path / "out" / "events.jsonl").mkdir()
    terminal.wait_for("this is a folder, not a file")
    terminal.press("q")
    assert terminal.end() == 0
    assert terminal.is_in_order()


def test_a_window_that_is_closed_ends_it(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.end() == 0


def test_without_a_run_a_terminal_gets_the_sentence_too(tmp_path: Path, flags: list[str]) -> None:
    terminal = Terminal(*flags)
    assert terminal.end() == 0
    assert "No run in " in terminal.raw
    assert ENTER not in terminal.raw
    terminal.close()


class Screen(io.StringIO):
    """A terminal that only keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({}, "dumb", "progress    step 1 of 10 (10 %)"),
        ({"once": True}, "xterm", "progress    step 1 of 10 (10 %)"),
        ({"view": "live", "once": True}, "xterm", "no warnings or errors in the log"),
        ({"view": "gpu"}, "dumb", "no NVIDIA GPU"),
    ],
)
def test_a_terminal_gets_text_where_it_cannot_or_shall_not_be_filled(
    log: RunLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], kind: str, expected: str
) -> None:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("PATH", "")
    settings = MonitorSettings.load(None, {"output_dir": tmp_path / "out", "log_dir": tmp_path / "logs", **options})
    screen = Screen()
    assert run(settings, Console(stdout=screen)).exit_code == 0
    text = _ESCAPES.sub("", screen.getvalue())
    assert expected in text
    assert "q quit" not in text
    assert ENTER not in screen.getvalue()
