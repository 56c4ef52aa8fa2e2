"""A run looked at while it goes on, ends, is killed, replaced or resumed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lavic.folders import FolderLock
from lavic.skipped import SkipLog
from lavic.training.run_log import EVENTS_FILE, SKIPPED_FILE, RunLog
from lavic.training.run_process import PROCESS_FILE, lock_holder
from lavic.training.run_view import RunReader, read_run, smoothing_window


def open_log(folder: Path, **options: Any) -> RunLog:
    return RunLog(folder / "out", folder / "logs", tensorboard=False, **options)


def write_rows(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "out").mkdir(exist_ok=True)
    lines = "".join(json.dumps({"time": time.time(), "step": 0, **row}) + "\n" for row in rows)
    (folder / "out" / EVENTS_FILE).write_text(lines, encoding="utf-8")


# -- a run that goes on --------------------------------------------------------------------------------------


def test_a_second_look_adds_what_is_new(tmp_path: Path) -> None:
    reader = RunReader(tmp_path / "out")
    assert reader.look().status == "none"
    with open_log(tmp_path) as log:
        assert reader.look().status == "starting"
        log.start("distill", total_steps=4)
        log.step(1, train_loss=4.0, lr=0.1, gradient_norm=2.5, memory_gb=1.5)
        assert (reader.look().step, reader.look().losses) == (1, [(1, 4.0)])
        log.step(2, train_loss=2.0, lr=0.2)
        log.validation(2, val_loss=1.0, val_perplexity=2.7)
        view = reader.look()
        assert (view.status, view.losses, view.lr) == ("running", [(1, 4.0), (2, 2.0)], 0.2)
        assert [each.step for each in view.validations] == [2]
        log.end()
    assert reader.look().status == "finished"
    whole = read_run(tmp_path / "out")
    assert replace(reader.look(), silent_s=None) == replace(whole, silent_s=None)


def test_the_validation_before_training_is_never_the_best(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.start("distill", total_steps=4)
        log.validation(0, val_loss=0.5, val_perplexity=1.6)
        assert read_run(tmp_path / "out").best is None
        log.step(2, train_loss=2.0, lr=0.2)
        log.validation(2, val_loss=0.9, val_perplexity=2.5)
        best = read_run(tmp_path / "out").best
    assert best is not None
    assert best.step == 2


@pytest.mark.parametrize("resume_step", [None, 2])
def test_a_run_that_is_begun_again_is_read_anew(tmp_path: Path, resume_step: int | None) -> None:
    reader = RunReader(tmp_path / "out")
    with open_log(tmp_path) as log:
        log.start("distill", total_steps=9)
        for step in range(1, 6):
            log.step(step, train_loss=1.0, lr=0.1)
        assert reader.look().step == 5
    with open_log(tmp_path, resume_step=resume_step) as log:
        log.start("distill", total_steps=9)
        view = reader.look()
    assert (view.step, len(view.losses)) == (resume_step or 0, resume_step or 0)


def test_half_a_row_at_the_end_waits_for_its_rest(tmp_path: Path) -> None:
    reader = RunReader(tmp_path / "out")
    with open_log(tmp_path) as log:
        log.step(1, train_loss=1.0, lr=0.1)
        with (tmp_path / "out" / EVENTS_FILE).open("a", encoding="utf-8") as file:
            file.write('{"kind": "step", "step": 2, "train')
        assert reader.look().step == 1
        with (tmp_path / "out" / EVENTS_FILE).open("a", encoding="utf-8") as file:
            file.write('_loss": 0.5}\n')
        assert reader.look().losses == [(1, 1.0), (2, 0.5)]


def test_what_is_left_out_is_counted_before_the_run_ends(tmp_path: Path) -> None:
    reader = RunReader(tmp_path / "out")
    with open_log(tmp_path) as log, SkipLog(tmp_path / "out" / SKIPPED_FILE) as skipped:
        log.step(1, train_loss=1.0, lr=0.1)
        assert reader.look().skipped == 0
        for key in ("a.jpg", "b.jpg"):
            skipped.add(file="x", where="1", key=key, reason="the file is empty")
        skipped.add(file="x", where="2", reason="no title")
        view = reader.look()
        assert (view.status, view.skipped) == ("running", 3)
        assert view.skipped_reasons == {"the file is empty": 2, "no title": 1}
        log.skipped(3)  # what a run reports at its end is the same, not more
        assert reader.look().skipped == 3


def test_the_rate_is_samples_by_seconds_now_and_on_the_whole(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for step in range(1, 101):
            # By hand: 50 steps of 4 samples in 1 s, then 50 in 3 s: 400 samples in 200 s, 200 of them in 150 s.
            log.step(step, train_loss=1.0, lr=0.1, samples=4, seconds=1.0 if step <= 50 else 3.0)
        view = read_run(tmp_path / "out")
    assert view.mean_samples_per_s == pytest.approx(2.0)
    assert view.samples_per_s == pytest.approx(4 / 3)


def test_the_time_left_counts_the_validations_to_come(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.start("distill", total_steps=40)
        for step in range(1, 21):
            log.step(step, train_loss=1.0, lr=0.1, seconds=2.0)
            if step % 10 == 0:
                log.validation(step, val_loss=1.0, val_perplexity=2.7, seconds=30.0)
        # 20 steps of 2 s, and as many validations as in the first half.
        assert read_run(tmp_path / "out").eta_s == pytest.approx(20 * 2.0 + 2 * 30.0)


def test_the_best_is_the_one_whose_adapter_is_kept(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.validation(1, val_loss=0.50, val_perplexity=1.6, val_loss_with_eos=0.48)
        log.validation(2, val_loss=0.49, val_perplexity=1.6, val_loss_with_eos=0.49)
    best = read_run(tmp_path / "out").best
    assert best is not None
    assert best.step == 1


def test_where_a_row_says_what_it_was_judged_by_that_decides(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.validation(1, val_loss=0.40, val_perplexity=1.5, hr_at_1=0.5, judged_by=0.502)
        log.validation(2, val_loss=0.60, val_perplexity=1.8, hr_at_1=0.7, judged_by=0.303)
    best = read_run(tmp_path / "out").best
    assert best is not None
    assert best.step == 2


def test_the_smoothed_loss_is_the_mean_of_the_last_steps(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for step in range(1, 31):
            log.step(step, train_loss=100.0 if step <= 20 else float(step), lr=0.1)
    view = read_run(tmp_path / "out")
    assert view.smoothing == 10
    assert view.smoothed_train_loss == pytest.approx(25.5)  # of 21 to 30
    assert [smoothing_window(steps) for steps in (0, 1, 9, 200, 1000)] == [1, 1, 9, 10, 50]


def test_numbers_that_no_run_writes_do_no_harm(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        {"kind": "start", "total_steps": 10**400},
        {"kind": "step", "step": -1, "train_loss": 1.0},
        {"kind": "step", "step": 10**400, "train_loss": 1.0},
        {"kind": "step", "step": 3, "train_loss": float("nan"), "samples": 0, "seconds": 0, "samples_per_s": 0},
        {"kind": "step", "step": 4, "train_loss": 10**400, "samples_per_s": float("inf")},
        {"kind": "skipped", "count": float("inf")},
    )
    (tmp_path / "out" / SKIPPED_FILE).write_text("[]\n{\n\n", encoding="utf-8")
    view = read_run(tmp_path / "out")
    assert (view.step, view.total_steps, view.losses, view.samples_per_s) == (4, None, [], None)
    assert (view.skipped, view.skipped_reasons) == (2, {"other reasons": 2})


# -- whether it is alive -------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="without /proc/locks nobody can be asked")
def test_a_locked_folder_is_told_without_locking_it(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with FolderLock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
    assert (tmp_path / ".lavic.lock").exists()
    assert lock_holder(tmp_path) is None


def killed_process(folder: Path) -> None:
    """Leaves the folder of a run whose process was killed."""
    program = (
        "import os, sys; from pathlib import Path; from lavic.training.run_log import RunLog; "
        "log = RunLog(Path(sys.argv[1]) / 'out', Path(sys.argv[1]) / 'logs', tensorboard=False); "
        "log.start('distill', total_steps=9); log.step(1, train_loss=1.0, lr=0.1); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=False, timeout=60)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="without /proc/locks nobody can be asked")
def test_a_killed_run_whose_folder_is_locked_again_is_starting(tmp_path: Path) -> None:
    killed_process(tmp_path)
    reader = RunReader(tmp_path / "out")
    assert reader.look().status == "killed"
    with FolderLock(tmp_path / "out"):
        assert reader.look().status == "starting"
    assert reader.look().status == "killed"


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="without /proc/locks nobody can be asked")
@pytest.mark.parametrize(("age_s", "status"), [(60.0, "starting"), (0.0, "interrupted")])
def test_an_ended_run_whose_folder_is_locked_is_starting_unless_it_ended_just_now(
    tmp_path: Path, age_s: float, status: str
) -> None:
    write_rows(tmp_path, {"kind": "end", "status": "interrupted", "time": time.time() - age_s})
    with FolderLock(tmp_path / "out"):
        assert read_run(tmp_path / "out").status == status


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="without /proc/locks nobody can be asked")
def test_a_folder_that_is_locked_and_empty_is_starting(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        assert read_run(tmp_path).status == "starting"
    assert read_run(tmp_path).status == "none"


def on_another_machine(folder: Path, last_row: float) -> RunReader:
    write_rows(folder, {"kind": "step", "step": 1, "train_loss": 1.0, "time": last_row})
    facts = {"pid": os.getpid(), "host": f"not-{socket.gethostname()}", "started": last_row}
    (folder / "out" / PROCESS_FILE).write_text(json.dumps(facts), encoding="utf-8")
    return RunReader(folder / "out")


def test_a_run_on_another_machine_is_judged_by_its_silence(tmp_path: Path) -> None:
    assert on_another_machine(tmp_path, time.time() - 60).look().status == "running"
    assert on_another_machine(tmp_path, time.time() - 3600).look().status == "killed"


def test_what_comes_while_one_looks_is_fresh_whatever_its_clock_says(tmp_path: Path) -> None:
    reader = on_another_machine(tmp_path, time.time() - 3600)  # a clock that is an hour behind
    assert reader.look().status == "killed"
    with (tmp_path / "out" / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "step", "step": 2, "train_loss": 1.0, "time": time.time() - 3600}) + "\n")
    view = reader.look()
    assert view.status == "running"
    assert view.silent_s is not None
    assert view.silent_s < 60


def test_a_clock_that_is_ahead_says_nothing_of_silence(tmp_path: Path) -> None:
    view = on_another_machine(tmp_path, time.time() + 3600).look()
    assert (view.status, view.silent_s) == ("running", None)


def test_an_ended_run_knows_its_log(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.step(1, train_loss=1.0, lr=0.1)
        log.end()
    assert read_run(tmp_path / "out").log_file == str(log.log_path)
    assert "log_file" not in log.log_path.read_text(encoding="utf-8")
