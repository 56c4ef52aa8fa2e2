"""The log followed until the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lavic.cli.main import run_command_line
from lavic.monitor.log_tail import LogTail
from lavic.monitor.terminal import Keyboard
from lavic.training.run_log import RunLog
from lavic.training.run_view import RunView


def new_log(tmp_path: Path, **options: int) -> RunLog:
    return RunLog(tmp_path / "out", tmp_path / "logs", tensorboard=False, **options)


def flags(tmp_path: Path) -> list[str]:
    return ["--output_dir", str(tmp_path / "out"), "--log_dir", str(tmp_path / "logs"), "--interval", "0.1"]


def at_each_look(monkeypatch: pytest.MonkeyPatch, *happens: Callable[[], object]) -> None:
    """What happens before the second look at the log, before the third, and so on."""
    left = [lambda: None, *happens]
    look = LogTail.look

    def after_it_happened(self: LogTail, view: RunView) -> list[str]:
        lines = look(self, view)
        if left:
            left.pop(0)()
        return lines

    monkeypatch.setattr(LogTail, "look", after_it_happened)


def test_new_lines_come_until_the_run_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(tmp_path)
    log.start("distill", total_steps=2)
    for number in range(30):
        log.note(f"note {number}")

    def ends() -> None:
        log.validation(1, val_loss=0.535, val_perplexity=1.7074)
        log.end()
        log.close()

    at_each_look(monkeypatch, lambda: log.step(1, train_loss=0.61234, lr=5e-5), ends)
    assert run_command_line(["monitor", "--follow", *flags(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert [line[20:] for line in out.splitlines()] == [
        *(f"note {number}" for number in range(10, 30)),
        "step step=1 train_loss=0.6123 lr=5.000e-05",
        "validation step=1 val_loss=0.5350 val_perplexity=1.7074",
        "end step=1 status=finished",
    ]
    assert err.startswith("-- finished, step 1 of 2 (50 %)")


def test_once_shows_the_last_lines_of_a_living_run_and_returns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(self: Keyboard, seconds: float) -> str:
        raise AssertionError("it waits for more")

    monkeypatch.setattr(Keyboard, "wait", wait)
    with new_log(tmp_path) as log:
        log.start("distill", total_steps=2)
        for number in range(30):
            log.note(f"note {number}")
        assert run_command_line(["monitor", "--follow", "--once", *flags(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert [line[20:] for line in out.splitlines()] == [f"note {number}" for number in range(10, 30)]
    assert err.startswith("-- running, ")


def test_a_run_that_is_begun_again_is_followed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [new_log(tmp_path)]
    logs[0].note("of the first")

    def begins_again() -> None:
        logs[0].close()
        logs.append(new_log(tmp_path))
        logs[1].note("of the second")

    def ends() -> None:
        logs[1].end()
        logs[1].close()

    at_each_look(monkeypatch, begins_again, ends)
    assert run_command_line(["monitor", "--view", "follow", *flags(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert [line[20:] for line in out.splitlines()] == ["of the first", "of the second", "end step=0 status=finished"]
    assert f"-- another log: {logs[1].log_path} --" in err


def test_a_log_that_is_deleted_does_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(tmp_path)
    log.note("before")

    def ends() -> None:
        log.end()
        log.close()

    at_each_look(monkeypatch, log.log_path.unlink, ends)
    assert run_command_line(["monitor", "--follow", *flags(tmp_path)]) == 0
    assert [line[20:] for line in capsys.readouterr().out.splitlines()] == ["before"]


def test_without_a_log_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = new_log(tmp_path)
    log.end()
    log.close()
    log.log_path.unlink()
    assert run_command_line(["monitor", "--follow", *flags(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"No log in {tmp_path / 'logs'} yet.\n")


def test_ctrl_c_ends_it_and_the_run_goes_on(tmp_path: Path) -> None:
    with new_log(tmp_path) as log:
        log.note("first")
        command = [sys.executable, "-m", "lavic.cli.main", "monitor", "--follow", *flags(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            killer = threading.Timer(60, process.kill)
            killer.start()
            assert process.stdout.readline().endswith("first\n")
            log.note("second")
            assert process.stdout.readline().endswith("second\n")
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(timeout=60) == 0
            killer.cancel()
        log.note("third")
