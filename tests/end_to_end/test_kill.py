"""Real processes, really killed: SIGKILL at seeded moments, then --resume; Ctrl-C; and stock PEFT at the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_world import flags, make_world

from lavic.distill.task import ADAPTER_FOLDER
from lavic.files import sha256_file
from lavic.training.checkpoints import CHECKPOINT_FILE, read_state

EPOCHS = 20  # 60 optimizer steps: a kill strikes before the run is over
MORE = {
    "batch_size": 3,
    "gradient_accumulation": 2,
    "num_epochs": EPOCHS,
    "num_workers": 2,
    "warmup": 2,
    "schedule": "cosine",
    "val_every": "2",
    "checkpoint_every": "1",
}


def start(arguments: list[str], *, new_group: bool = False) -> subprocess.Popen[str]:
    """The command in a process of its own, its threads as many as everywhere in this file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lavic.cli.main", *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=new_group,
    )


def wait_for_steps(process: subprocess.Popen[str], output: Path, steps: int) -> None:
    """Until the run has logged so many steps (or has ended)."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        events = output / "events.jsonl"
        if events.exists() and events.read_text().count('"kind": "step"') >= steps:
            return
        time.sleep(0.02)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def expected(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of an uninterrupted run's results."""
    output = tmp_path_factory.mktemp("expected") / "out"
    process = start(flags(world, output, **MORE))
    _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
    return digests(output)


def digests(output: Path) -> dict[str, str]:
    names = [CHECKPOINT_FILE, f"{ADAPTER_FOLDER}/adapter_model.safetensors"]
    names += [f"val_metrics_epoch_{epoch}.txt" for epoch in range(1, EPOCHS + 1)]
    return {name: sha256_file(output / name) for name in names}


def killed_and_resumed(world: Path, output: Path, rng: random.Random, kills: int) -> None:
    """Kill a run at ``kills`` random moments, then let it end."""
    for kill in range(kills):
        process = start(flags(world, output, **MORE, resume=kill > 0))
        wait_for_steps(process, output, rng.randint(1, 12) + 15 * kill)
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    process = start(flags(world, output, **MORE, resume=True))
    _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error


def test_a_run_killed_twice_ends_with_the_same_bytes(world: Path, expected: dict[str, str], tmp_path: Path) -> None:
    killed_and_resumed(world, tmp_path / "out", random.Random(1), kills=2)
    assert digests(tmp_path / "out") == expected
    assert not list((tmp_path / "out").rglob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_twenty_kills_at_seeded_moments(world: Path, expected: dict[str, str], tmp_path: Path, seed: int) -> None:
    killed_and_resumed(world, tmp_path / "out", random.Random(seed), kills=2)
    assert digests(tmp_path / "out") == expected


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_the_run_in_order(world: Path, tmp_path: Path, kind: signal.Signals) -> None:
    # As a terminal does on Ctrl-C, and a batch system when the time is up: the reading processes get it too.
    output = tmp_path / "out"
    process = start(flags(world, output, **{**MORE, "num_epochs": 500, "checkpoint_every": "10m"}), new_group=True)
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


def test_ctrl_c_says_how_to_go_on_and_resuming_ends_the_same(
    world: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start(flags(world, output, **MORE))
    wait_for_steps(process, output, 3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in error
    assert "Traceback" not in error
    process = start(flags(world, output, **MORE, resume=True))
    _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
    assert "Resumed at step " in error
    assert digests(output) == expected
