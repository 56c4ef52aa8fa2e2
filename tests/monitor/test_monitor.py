"""`lavic monitor`: a run in a screen of text and as JSON; no run is an answer, not an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavic.cli.main import run_command_line
from lavic.monitor.summary import loss_curve
from lavic.training.run_log import RunLog


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
        log.warning("the disk is nearly full")
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


def test_json_has_the_same_numbers(finished: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["monitor", "--json", *finished]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["step"], found["total_steps"]) == ("finished", 20, 20)
    assert (found["best_val_loss"], found["best_step"], found["val_loss"]) == (0.7, 10, 0.8)
    assert found["warnings"] == ["the disk is nearly full"]


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


def test_a_folder_that_is_a_file_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("", encoding="utf-8")
    assert run_command_line(["monitor", "--output_dir", str(path)]) == 2
    assert capsys.readouterr().err == f"Error: {path}: is not a folder.\n"


def test_events_that_are_not_ours_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["[]", "{", '{"kind": 3}', '{"kind": "step", "step": 4, "train_loss": "low"}', "\udcff", "null"]
    (tmp_path / "events.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert run_command_line(["monitor", "--output_dir", str(tmp_path)]) == 0
    assert "step 4" in capsys.readouterr().out


def test_the_curve_falls_with_the_loss() -> None:
    lines = loss_curve([(step, 5.0 - step) for step in range(1, 5)], width=4, height=4)
    assert lines[1:] == [
        "train loss, step 1 to 4",
        "    4.000 |*",
        "          | *",
        "          |  *",
        "    1.000 |   *",
    ]


def test_one_odd_step_does_not_bend_the_curve() -> None:
    losses = [(step, 1.0) for step in range(1, 31)]
    losses[15] = (16, 1000.0)
    # Ten columns of three steps; the median of a column never sees the odd one.
    assert loss_curve(losses, width=10, height=3)[2:] == [
        "    1.000 |",
        "          |",
        "    1.000 |**********",
    ]
