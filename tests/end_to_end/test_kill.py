"""Real processes, really killed: SIGKILL at seeded moments, then --resume; and signals that ask them to stop."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from end_to_end.run_results import results
from small_world import flags, make_world

from lavic.training.checkpoints import read_state

# Dropout, shuffling, 2 workers, uneven accumulation, warm-up, cosine, validations inside the epochs. 70 training
# pictures make 24 micro-batches, so 12 steps an epoch: 24 steps, of which the last kill leaves some to be done.
# Few epochs and validations: each starts its readers anew, which takes longer than a step.
MORE = {
    "batch_size": 3,
    "gradient_accumulation": 2,
    "num_epochs": 2,
    "num_workers": 2,
    "warmup": 2,
    "schedule": "cosine",
    "val_every": "5",
    "checkpoint_every": "2",
}
KILLS = 4


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """The command in a process group of its own, its threads as many as everywhere in this file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lavic.cli.main", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stderr=pipe, stdout=pipe, text=True, start_new_session=True)


def wait_for_steps(process: subprocess.Popen[str], output: Path, steps: int) -> None:
    """Until the run has logged so many steps (or has ended)."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        events = output / "events.jsonl"
        if events.exists() and events.read_text().count('"kind": "step"') >= steps:
            return
        time.sleep(0.02)


def finish(arguments: list[str]) -> str:
    """Let a run end well; what it told the user."""
    process = start(arguments)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return error


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), items=88)


@pytest.fixture(scope="module")
def expected(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of an uninterrupted run."""
    output = tmp_path_factory.mktemp("expected") / "out"
    finish(flags(world, output, **MORE))
    state = read_state(output)
    assert state is not None
    assert state.step == 24
    return results(output)


def killed_and_resumed(world: Path, output: Path, rng: random.Random) -> str:
    """Kill a run at ``KILLS`` random moments, then let it end; what the last part told the user."""
    for kill in range(KILLS):
        process = start(flags(world, output, **MORE, resume=kill > 0))
        wait_for_steps(process, output, 5 * kill + rng.randint(0, 4))
        time.sleep(rng.random() * 0.3)
        process.kill()
        # Not `communicate`: the readers live on for seconds, and the next run must not wait for them either.
        assert process.wait(timeout=60) == -signal.SIGKILL, "the run was over before it was killed"
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    return finish(flags(world, output, **MORE, resume=True))


def test_a_run_killed_four_times_ends_with_the_same_bytes(
    world: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    error = killed_and_resumed(world, tmp_path / "out", random.Random(1))
    assert " of 24\n" in error[error.index("Resumed at step ") :]
    assert results(tmp_path / "out") == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_twenty_kills_at_seeded_moments(world: Path, expected: dict[str, Any], tmp_path: Path, seed: int) -> None:
    killed_and_resumed(world, tmp_path / "out", random.Random(seed))
    assert results(tmp_path / "out") == expected


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_the_run_in_order(
    world: Path, expected: dict[str, Any], tmp_path: Path, kind: signal.Signals
) -> None:
    # As a terminal does on Ctrl-C, and a batch system when the time is up: the reading processes get it too.
    output = tmp_path / "out"
    process = start(flags(world, output, **{**MORE, "checkpoint_every": "10m"}))
    wait_for_steps(process, output, 5)
    os.killpg(process.pid, kind)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.count("Stopping after this step; once more stops at once.") == 1
    assert "Error: interrupted. Run the same command with --resume" in error
    assert "Traceback" not in error
    # The step that was under way is the step that was saved.
    steps = [line for line in (output / "events.jsonl").read_text().splitlines() if '"kind": "step"' in line]
    state = read_state(output)
    assert state is not None
    assert state.step == len(steps) >= 5
    if kind == signal.SIGTERM:
        return  # both are handled by the same lines: one resumed run is enough
    assert f"Resumed at step {state.step} of 24\n" in finish(flags(world, output, **MORE, resume=True))
    # How often it is saved may differ between two parts of a run, and only the rows that say so then do.
    differing = {"events", "checkpoint", "best loss and counters"}
    found = results(output)
    assert {name for name in found if found[name] != expected[name]} <= differing
    assert saved_rows_left_out(found) == saved_rows_left_out(expected)


def saved_rows_left_out(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [row for row in found["events"] if row["kind"] != "checkpoint"]
    for row in rows:
        row.get("settings", {}).pop("checkpoint_every", None)
    return rows
