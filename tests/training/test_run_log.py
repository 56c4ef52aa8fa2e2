"""A run's events: what is written, what a resumed run keeps, and what a reader makes of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lavic.console import Console
from lavic.errors import OutputError
from lavic.training.run_log import EVENTS_FILE, TIMING_FIELDS, RunLog, new_log_path
from lavic.training.run_process import PROCESS_FILE
from lavic.training.run_view import read_run


def open_log(folder: Path, **options: Any) -> RunLog:
    return RunLog(folder / "out", folder / "logs", tensorboard=False, **options)


def train(log: RunLog, first: int, last: int) -> None:
    """Steps whose loss is 1 / step, with a validation and a checkpoint after every second one."""
    for step in range(first, last + 1):
        log.step(step, train_loss=1 / step, lr=0.1, epoch=step / 4, samples_per_s=8.0)
        if step % 2 == 0:
            log.validation(step, val_loss=0.5 / step, val_perplexity=1.5)
            log.checkpoint(step, path="last")


def rows(folder: Path) -> list[dict[str, Any]]:
    """The events without what two equal runs may differ in."""
    lines = (folder / "out" / EVENTS_FILE).read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING_FIELDS} for line in lines]


def whole_run(folder: Path, steps: int = 6) -> None:
    with open_log(folder) as log:
        log.start("distill", total_steps=steps, settings={"lr": 0.1, "train_data": Path("x")})
        train(log, 1, steps)
        log.end()


def test_events_are_rows_with_kind_step_and_time(tmp_path: Path) -> None:
    whole_run(tmp_path, 2)
    assert rows(tmp_path) == [
        {
            "kind": "start",
            "step": 0,
            "command": "distill",
            "total_steps": 2,
            "settings": {"lr": 0.1, "train_data": "x"},
        },
        {"kind": "step", "step": 1, "train_loss": 1.0, "lr": 0.1, "epoch": 0.25},
        {"kind": "step", "step": 2, "train_loss": 0.5, "lr": 0.1, "epoch": 0.5},
        {"kind": "validation", "step": 2, "val_loss": 0.25, "val_perplexity": 1.5},
        {"kind": "checkpoint", "step": 2, "path": "last"},
        {"kind": "end", "step": 2, "status": "finished"},
    ]


def test_the_text_log_can_be_followed_and_grepped(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.start("distill", total_steps=2)
        log.step(1, train_loss=0.61234, lr=5e-5)
        log.validation(1, val_loss=0.535, val_perplexity=1.7074)
        log.note("Best LoRA adapter saved.")
        # On disk while the run goes on.
        lines = log.log_path.read_text(encoding="utf-8").splitlines()
    assert log.log_path.parent == tmp_path / "logs"
    assert [line[20:] for line in lines] == [
        "start step=0 command=distill total_steps=2",
        "step step=1 train_loss=0.6123 lr=5.000e-05",
        "validation step=1 val_loss=0.5350 val_perplexity=1.7074",
        "Best LoRA adapter saved.",
    ]


def test_two_runs_in_one_second_have_two_logs(tmp_path: Path) -> None:
    names = {new_log_path(tmp_path).name for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) == len("training_YYYYMMDD_HHMMSS.log") for name in names)


@pytest.mark.parametrize("stored", [True, False])
def test_a_resumed_run_has_the_events_of_an_uninterrupted_one(tmp_path: Path, stored: bool) -> None:
    whole_run(tmp_path / "whole")
    cut = tmp_path / "cut"
    with contextlib.suppress(KeyboardInterrupt), open_log(cut) as log:
        log.start("distill", total_steps=6, settings={"lr": 0.1, "train_data": Path("x")})
        train(log, 1, 4)
        at_checkpoint = log.rows
        train(log, 5, 5)
        log.warn("it got hot")
        raise KeyboardInterrupt
    assert [row["kind"] for row in rows(cut)][-3:] == ["checkpoint", "step", "end"]
    # A kill in the middle of a line.
    with (cut / "out" / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    with open_log(cut, resume_step=4, resume_rows=at_checkpoint if stored else None) as log:
        log.start("distill", total_steps=6, settings={"lr": 0.1, "train_data": Path("x")})
        train(log, 5, 6)
        log.end()
    assert rows(cut) == rows(tmp_path / "whole")


def test_a_new_run_replaces_the_events_of_an_old_one(tmp_path: Path) -> None:
    whole_run(tmp_path, 6)
    whole_run(tmp_path, 2)
    assert max(row["step"] for row in rows(tmp_path)) == 2


def test_what_is_not_finite_is_null_in_the_rows(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.step(1, train_loss=float("nan"), lr=0.1)
    assert rows(tmp_path)[0]["train_loss"] is None
    assert read_run(tmp_path / "out").losses == []


def test_a_log_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"logs: is not a folder\. Choose another --log_dir\."):
        open_log(tmp_path)


# -- reading ---------------------------------------------------------------------------------------------


def test_a_folder_without_a_run_is_no_error(tmp_path: Path) -> None:
    assert read_run(tmp_path / "missing").status == "none"
    assert read_run(tmp_path).status == "none"


def test_a_running_run_is_told_from_its_process(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.start("distill", total_steps=10)
        train(log, 1, 5)
        view = read_run(tmp_path / "out")
    assert (view.status, view.command, view.step, view.total_steps) == ("running", "distill", 5, 10)
    assert view.best is not None
    assert (view.best.step, view.best.val_loss, view.last_checkpoint_step) == (4, 0.125, 4)
    assert (view.train_loss, view.samples_per_s, view.epoch) == (0.2, 8.0, 1.25)
    assert view.eta_s is not None
    assert view.log_file == str(log.log_path)


def test_the_time_left_is_the_usual_step_times_the_steps_left(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.start("distill", total_steps=10)
        # Two seconds a step, and a validation of a minute after the third: it must not count as a slow step.
        for step, moment in enumerate([0, 2, 4, 66, 68], 1):
            log.step(step, train_loss=1.0, lr=0.1, time=moment)
        assert read_run(tmp_path / "out").eta_s == 5 * 2.0


def test_a_finished_run_is_finished(tmp_path: Path) -> None:
    whole_run(tmp_path)
    view = read_run(tmp_path / "out")
    assert (view.status, view.step, view.eta_s) == ("finished", 6, None)
    assert not (tmp_path / "out" / PROCESS_FILE).exists()


def test_an_error_ends_a_run_as_failed_with_its_reason(tmp_path: Path) -> None:
    with contextlib.suppress(ValueError), open_log(tmp_path) as log:
        log.start("distill", total_steps=6)
        raise ValueError("bad")
    view = read_run(tmp_path / "out")
    assert view.status == "failed"
    assert view.end is not None
    assert view.end["reason"] == "ValueError: bad"


def test_a_killed_run_is_told_from_a_running_one(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from lavic.training.run_log import RunLog; "
        "log = RunLog(Path(sys.argv[1]) / 'out', Path(sys.argv[1]) / 'logs', tensorboard=False); "
        "log.start('distill', total_steps=9); log.step(1, train_loss=1.0, lr=0.1); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert read_run(tmp_path / "out").status == "killed"
    assert read_run(tmp_path / "out").step == 1
    # The number of the killed process given to another one: to this one.
    path = tmp_path / "out" / PROCESS_FILE
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "pid": os.getpid()}), encoding="utf-8")
    assert read_run(tmp_path / "out").status == "killed"


def test_tensorboard_gets_the_curves_and_a_resumed_run_continues_them(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resume_step, first in ((None, 1), (2, 3)):
        with RunLog(tmp_path / "out", tmp_path / "logs", resume_step=resume_step) as log:
            log.start("distill", total_steps=4)
            train(log, first, 4)
    curves = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    curves.Reload()
    points = [(event.step, round(event.value, 4)) for event in curves.Scalars("train/train_loss")]
    assert points == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)]
    assert [event.step for event in curves.Scalars("val/val_loss")] == [2, 4]


def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(
        "class Run:\n    def log(self, *a, **k): raise OSError('no network')\n"
        "    def finish(self): raise OSError('no network')\n"
        "def init(**k): return Run()\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("WANDB_PROJECT", "toys")
    err = io.StringIO()
    with open_log(tmp_path, console=Console(stderr=err)) as log:
        log.start("distill", total_steps=4)
        train(log, 1, 4)
        log.end()
    message = "Weights & Biases is no longer written: OSError: no network"
    assert err.getvalue() == f"Warning: {message}\n"
    assert f"WARNING {message}" in log.log_path.read_text(encoding="utf-8")
    assert read_run(tmp_path / "out").status == "finished"
