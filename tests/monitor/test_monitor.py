"""`lavic monitor`: a run in a screen of text and as JSON; no run is an answer, not an error."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lavic.cli.main import run_command_line
from lavic.training.run_log import EVENTS_FILE, RunLog


@pytest.fixture
def finished(tmp_path: Path) -> list[str]:
    """The flags that point to a run of 20 steps."""
    with RunLog(tmp_path / "out", tmp_path / "logs", tensorboard=False) as log:
        log.start("distill", total_steps=20)
        for step in range(1, 21):
            log.step(step, train_loss=2.0 / step, lr=0.1, epoch=step / 10, samples_per_s=3.25)
        log.validation(10, val_loss=0.7, val_perplexity=2.0138)
        log.validation(20, val_loss=0.8, val_perplexity=2.2255)
        log.checkpoint(20, path="last")
        log.skipped(3)
        log.warn("the disk is nearly full")
        log.end()
    return ["--output_dir", str(tmp_path / "out"), "--log_dir", str(tmp_path / "logs")]


def test_a_summary_says_where_the_run_stands(finished: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["monitor", *finished]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"distill in {finished[1]}: finished" in out
    assert "step 20 of 20 (100 %), epoch 2.00" in out
    assert "3.25 samples/s" in out
    assert "train loss  0.1000 (lowest 0.1000)" in out
    assert "0.8000, perplexity 2.2255, at step 20 (best 0.7000 at step 10)" in out
    assert "3 rows or pictures" in out
    assert "the disk is nearly full" in out
    assert "tail -f " in out
    assert "\x1b" not in out


def test_json_has_the_same_numbers(finished: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["monitor", "--json", *finished]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["step"], found["total_steps"]) == ("finished", 20, 20)
    assert (found["best_val_loss"], found["best_step"], found["val_loss"]) == (0.7, 10, 0.8)
    (warning,) = found["warnings"]
    assert warning.endswith(" WARNING the disk is nearly full")
    assert (found["smoothed_train_loss"], found["lr"], found["mean_samples_per_s"]) == (
        pytest.approx(sum(2 / step for step in range(11, 21)) / 10),
        0.1,
        pytest.approx(3.25),
    )
    assert [each["val_loss"] for each in found["validations"]] == [0.7, 0.8]


def test_no_run_yet_is_exit_code_0_and_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output_dir", str(tmp_path / "out"), "--log_dir", str(tmp_path / "logs")]
    assert run_command_line(["monitor", *flags]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"No run in {tmp_path / 'out'} yet."
    assert "./run_training.sh" in second
    assert run_command_line(["monitor", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "none"


def test_where_there_is_no_run_yet_the_warnings_of_another_are_not_told(
    finished: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output_dir", str(tmp_path / "elsewhere"), *finished[2:]]
    assert run_command_line(["monitor", "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["warnings"]) == ("none", [])


def test_a_folder_that_is_a_file_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("", encoding="utf-8")
    assert run_command_line(["monitor", "--output_dir", str(path)]) == 2
    assert capsys.readouterr().err == f"Error: {path}: is not a folder.\n"


@pytest.mark.parametrize("view", ["summary", "follow", "curve"])
@pytest.mark.parametrize("flag", ["output_dir", "log_dir"])
def test_an_impossible_path_is_wrong_input(
    finished: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, view: str
) -> None:
    path = tmp_path / ("x" * 300)
    if flag == "log_dir":
        # A run that names no log of its own, so that the folder is looked at.
        (tmp_path / "out" / EVENTS_FILE).write_text('{"kind": "step", "step": 4, "train_loss": 1.5}\n')
    code = run_command_line(["monitor", *finished, "--view", view, f"--{flag}", str(path)])
    captured = capsys.readouterr()
    if (flag, view) == ("log_dir", "curve"):
        # A screen says in its own place what it cannot show.
        assert (code, captured.err) == (0, "")
        assert "cannot be read (File name too long)" in captured.out
    else:
        assert (code, captured.err) == (2, f"Error: {path}: cannot be read (File name too long).\n")


@pytest.mark.parametrize("what", ["out", "logs"])
def test_a_folder_that_must_not_be_read_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    # The owner of the machine may read everything, so the system's answer is put in its place.
    forbidden = tmp_path / what

    def refusing(real: Any) -> Any:
        def call(path: Any, *more: Any, **named: Any) -> Any:
            if str(path) == str(forbidden):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *more, **named)

        return call

    for name in ("stat", "scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    flags = ["--output_dir", str(tmp_path / "out"), "--log_dir", str(tmp_path / "logs")]
    assert run_command_line(["monitor", *flags]) == 2
    assert capsys.readouterr().err == f"Error: {forbidden}: cannot be read (Permission denied).\n"


def test_events_that_are_not_ours_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["[]", "{", '{"kind": 3}', '{"kind": "step", "step": 4, "train_loss": "low"}', "\udcff", "null"]
    (tmp_path / "events.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert run_command_line(["monitor", "--output_dir", str(tmp_path)]) == 0
    assert "step 4" in capsys.readouterr().out


@pytest.mark.parametrize("view", ["live", "curve", "errors", "gpu", "follow"])
def test_every_view_is_plain_text_in_a_pipe(
    view: str, finished: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run_command_line(["monitor", *finished, "--view", view]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    expected = {
        "live": ["finished", "0.8000", "best", "no NVIDIA GPU", "WARNING the disk is nearly full"],
        "curve": ["val_loss", "step 1"],
        "errors": [
            "warnings and errors: 1, in",
            "WARNING the disk is nearly full",
            "3 rows or pictures left out",
        ],
        "gpu": ["no NVIDIA GPU"],
        "follow": ["train_loss=0.1000", "val_loss=0.8000 val_perplexity=2.2255", "end step=20 status=finished"],
    }
    assert [text for text in expected[view] if text not in out] == []


def test_json_is_the_summary_whatever_view_is_asked_for(
    finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["monitor", "--json", "--view", "live", *finished]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 20


def test_a_view_that_there_is_not_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["monitor", "--view", "graph"]) == 2
    assert capsys.readouterr().err.startswith("Error: --view: 'graph' is not one of live, summary, follow, curve")


def test_the_log_of_an_ended_run_is_its_own_not_the_newest(
    finished: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs" / "training_29990101_000000.log").write_text("of another run\n", encoding="utf-8")
    assert run_command_line(["monitor", "--follow", *finished]) == 0
    out = capsys.readouterr().out
    assert "of another run" not in out
    assert "end step=20 status=finished" in out
