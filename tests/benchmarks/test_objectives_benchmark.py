"""benchmarks/objectives.py: its figures from runs, by hand, and a run of a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from objectives import Found, kept, spread, steps_to, table, verdict

from lavic.files import write_json

ROOT = Path(__file__).resolve().parents[2]


def found(objective: str, share: int, seed: int, loss: float, curve: tuple[tuple[int, float], ...] = ()) -> Found:
    accuracy = {"colour": 1.0, "pattern": 0.5, "kind": 1.0, "detail": 0.5, "all": 0.25}
    return Found(objective, share, seed, loss, accuracy, 1.0, curve)


def test_the_steps_to_a_loss_lie_between_two_validations() -> None:
    curve = [(10, 0.5), (20, 0.3), (30, 0.4), (40, 0.1)]
    assert steps_to(curve, 0.35) == pytest.approx(17.5)
    assert steps_to(curve, 0.3) == 20
    assert steps_to(curve, 0.2) == pytest.approx(30 + 10 * 0.2 / 0.3)
    assert steps_to(curve, 0.6) == 10
    assert steps_to(curve, 0.05) is None


def test_the_goal_is_the_mean_of_nlls_final_losses() -> None:
    runs = [found("nll", 100, 0, 0.2, ((50, 0.4), (100, 0.2))), found("nll", 100, 1, 0.4), found("nll", 50, 0, 0.35)]
    runs += [found("kl", 50, 0, 0.28), found("kl", 50, 1, 0.31), found("kl", 100, 0, 0.2, ((25, 0.4), (50, 0.2)))]
    answer = verdict(runs, 100)
    assert answer["nll_final_loss"] == pytest.approx(0.3)
    assert answer["nll"]["reached_in_half"] is False
    assert answer["nll"]["steps_to_it_by_seed"] == [75.0, None]
    assert answer["kl"]["loss_in_half_of_the_steps"] == pytest.approx(0.295)
    assert answer["kl"]["reached_in_half"] is True
    assert answer["kl"]["seeds_that_reach_it_in_half"] == 1
    assert answer["kl"]["share_of_steps"] == [0.375]
    assert answer["nll+kl"]["reached_in_half"] is False, "no run reaches nothing"


def test_the_table_has_a_row_for_each_objective_and_length() -> None:
    rows = table([found("kl", 50, 0, 0.25), found("kl", 50, 1, 0.35), found("nll", 25, 0, 0.5)], 80)
    assert rows == [
        ["nll", "20 (25 %)", "0.5000", "75.0%", "25.0%"],
        ["kl", "40 (50 %)", "0.3000 ± 0.0707", "75.0% ± 0.0%", "25.0% ± 0.0%"],
    ]
    assert spread([1.0], ".1f") == "1.0"


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    target = tmp_path / "o.json"
    command = [sys.executable, "benchmarks/objectives.py", "--steps", "4", "--items", "24", "--seeds", "1", "--k", "4"]
    command += ["--work", str(tmp_path / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--json", target], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    result = json.loads(target.read_text())
    assert len(result["runs"]) == 9
    assert {run["objective"] for run in result["runs"]} == {"nll", "kl", "nll+kl"}
    assert "nll+kl" in done.stdout
    assert "teacher" in done.stdout
    # What is done is not done again, and is read back as it was.
    again = subprocess.run([*command, "--json", target], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert again.stdout.decode() == done.stdout
    assert json.loads(target.read_text()) == result


def test_a_run_that_was_asked_otherwise_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "nll-25-0.json"
    assert kept(path, {"steps": 4}) is None
    write_json(path, {"asked": {"steps": 4}, "found": {"seed": 0}})
    assert kept(path, {"steps": 4}) == {"seed": 0}
    assert kept(path, {"steps": 5}) is None
