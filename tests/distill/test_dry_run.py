"""``lavic distill --dry_run``: what it measures, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_world import flags, make_world, refused, train_rows, write_train_rows

from lavic.cli.main import run_command_line
from lavic.distill.config import DistillSettings
from lavic.distill.run_time import Plan, Timings, after_warm_up, longest, plan_of, spread, whole_run_s
from lavic.errors import ConfigError, TrainingError
from lavic.model.sequences import Sequence
from lavic.training.loaders import Sample
from lavic.training.loop import Trainer
from lavic.training.runs import loop_settings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made, empty at first; not in tmp_path, whose name is too long for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in a folder, with size and time of the last change."""
    found = {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}
    return {path: facts for path, facts in found.items() if path != str(folder / "temporary")}


def sample(tokens: int) -> Sample:
    return Sample(f"{tokens}.jpg", Path(f"{tokens}.jpg"), Sequence(tuple(range(tokens)), 1, ()))


def test_a_dry_run_measures_and_leaves_nothing(
    world: Path,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "nobody-shall-hear-of-it")
    before = tree(tmp_path)
    words = flags(world, tmp_path / "out", gradient_accumulation=2, num_workers=1, dry_run=5)
    words += ["--picture_cache", str(tmp_path / "cut")]
    assert run_command_line([*words, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert tree(tmp_path) == before
    assert list(temporary.iterdir()) == []
    assert found["steps"] == 5
    # 16 samples in steps of 4 x 2, one epoch.
    assert (found["total_steps"], found["validations"]) == (2, 1)
    assert found["peak_memory_gb"] > 0.1
    assert found["seconds_per_step"] > 0
    assert found["samples_per_s"] == pytest.approx(8 / found["seconds_per_step"])
    assert found["hours"] * 3600 > 2 * found["seconds_per_step"] + found["seconds_per_validation"]
    assert "saved" not in captured.err


def test_a_full_output_folder_is_left_alone_and_does_not_stop_it(
    world: Path, tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(flags(world, tmp_path / "out", max_steps=1)) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert run_command_line(flags(world, tmp_path / "out", dry_run=1)) == 0
    assert tree(tmp_path) == before
    assert list(temporary.iterdir()) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("peak memory")
    assert lines[-1] == "Nothing was kept. Start the run with the same flags without --dry_run."


def test_a_run_can_be_resumed_after_a_dry_one(world: Path, tmp_path: Path, temporary: Path) -> None:
    words = flags(world, tmp_path / "out", num_epochs=2)
    assert run_command_line(words) == 0
    assert run_command_line([*words, "--dry_run", "1"]) == 0
    assert run_command_line([*words, "--resume"]) == 0
    assert "dry_run" not in (tmp_path / "out" / "config.yaml").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TrainingError("the loss is nan"), RuntimeError("defect")])
def test_nothing_is_left_after_ctrl_c_or_an_error(
    world: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before, seen = tree(tmp_path), []

    def fail(self: Trainer, steps: Any) -> None:
        seen.extend(temporary.rglob("events.jsonl"))
        raise error

    monkeypatch.setattr(Trainer, "_step", fail)
    code = {KeyboardInterrupt: 130, TrainingError: 2, RuntimeError: 70}[type(error)]
    assert run_command_line(flags(world, tmp_path / "out", dry_run=3)) == code
    assert len(seen) == 1, "it was at work in the temporary folder"
    assert list(temporary.iterdir()) == []
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_between_the_steps_leaves_nothing(
    world: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    def killed(*arguments: Any) -> None:
        assert len(list(temporary.iterdir())) == 1
        os.kill(os.getpid(), kind)

    def would_be_the_end(number: int, frame: object) -> None:
        raise RuntimeError("the process is gone")

    monkeypatch.setattr("lavic.distill.dry_run.train_to_end", killed)
    before = signal.signal(kind, would_be_the_end)
    try:
        assert run_command_line(flags(world, tmp_path / "out", dry_run=1)) == 130
        assert signal.getsignal(kind) is would_be_the_end
    finally:
        signal.signal(kind, before)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "micro_batches"),
    # 16 samples: one step of all of them, in as few micro-batches as the run itself would take.
    [(100, 1, [16]), (100, 3, [16]), (10, 7, [10, 6])],
)
def test_no_step_is_larger_than_one_of_the_run(
    world: Path,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    batch_size: int,
    accumulation: int,
    micro_batches: list[int],
) -> None:
    original, seen = Trainer._step, []

    def noted(self: Trainer, steps: Any) -> None:
        seen.append([len(micro.names) for micro in steps])
        original(self, steps)

    monkeypatch.setattr(Trainer, "_step", noted)
    words = flags(world, tmp_path / "out", batch_size=batch_size, gradient_accumulation=accumulation, num_workers=0)
    assert run_command_line([*words, "--dry_run", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # Two of the longest samples and WARM_UP + 2 ordinary ones.
    assert len(seen) == 2 + 5
    assert {len(step) for step in seen} == {len(micro_batches)}
    assert {max(step) for step in seen} == {micro_batches[0]}
    assert found["total_steps"] == 1


@pytest.mark.slow
def test_a_polite_kill_leaves_nothing(world: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = flags(world, tmp_path / "out", dry_run=10_000, num_workers=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "lavic.cli.main", *words],
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in temporary.rglob("events.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [path for path in temporary.iterdir() if path.name.startswith("lavic")] == []
    assert not (tmp_path / "out").exists()


def test_pictures_that_cannot_be_read_are_told_of(
    tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path / "world", items=15)
    for path in (world / "train_images").iterdir():
        path.write_bytes(b"no picture")
    sentence = refused(capsys, flags(world, tmp_path / "out", dry_run=2))
    assert "no training picture can be read" in sentence
    assert sentence.endswith("lavic check looks at all pictures.")


def test_the_longest_sample_is_among_those_that_are_trained_on(
    tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path / "world")
    rows = train_rows(world)
    last = list(rows)[-1]
    rows[last]["image_descriptions_llava_cleaned"] = {f"{last}_0.jpg": "a red mug " * 60}
    write_train_rows(world, rows)
    assert run_command_line([*flags(world, tmp_path / "out", dry_run=1, batch_size=1), "--json"]) == 0
    captured = capsys.readouterr()
    tokens = json.loads(captured.out)["longest_sample_tokens"]
    assert tokens > 200
    assert f"Dry run: 1 step on the longest of 16 samples (up to {tokens} tokens, " in captured.err


def test_the_longest_are_those_with_most_tokens_behind_the_title() -> None:
    def sample(name: str, title: int, behind: int) -> Sample:
        return Sample(name, Path(name), Sequence((1,) * (title + behind), title, (title,)))

    samples = [sample("title", 200, 10), sample("text", 20, 90), sample("both", 30, 90), sample("short", 10, 9)]
    assert [each.name for each in longest(samples, 5)] == ["both", "text", "title", "short", "both"]
    assert [each.name for each in spread(samples, 2)] == ["both", "title"]


@pytest.mark.parametrize("flag", ["resume", "overwrite", "validate_only"])
def test_what_a_dry_run_excludes_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"--dry_run and --{flag}: they exclude each other"):
        DistillSettings.load(None, {"dry_run": 5, flag: True})


# -- what is worked out --------------------------------------------------------------------------------------


def test_longest_and_spread_take_what_they_say() -> None:
    samples = [sample(tokens) for tokens in (3, 9, 1, 7, 5)]
    assert [len(each.sequence.input_ids) for each in longest(samples, 3)] == [9, 7, 5]
    assert [len(each.sequence.input_ids) for each in longest(samples, 7)] == [9, 7, 5, 3, 1, 9, 7]
    assert [len(each.sequence.input_ids) for each in spread(samples, 2)] == [9, 5]
    assert len(spread(samples, 10)) == 5


def test_the_warm_up_does_not_count() -> None:
    assert after_warm_up([9.0, 8.0, 7.0, 1.0, 2.0]) == [1.0, 2.0]
    assert after_warm_up([9.0, 8.0]) == [8.0]


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        # 10 samples in twos: 5 steps an epoch. A save at the very end comes on top of those of validations.
        ({"num_epochs": 2}, Plan(10, 2, 3)),
        ({"num_epochs": 2, "max_steps": 7}, Plan(7, 2, 3)),
        ({"num_epochs": 2, "val_every": "2"}, Plan(10, 6, 7)),
        ({"num_epochs": 2, "val_every": "2", "validate_before_training": True}, Plan(10, 7, 7)),
        ({"num_epochs": 2, "checkpoint_every": "4"}, Plan(10, 2, 5)),
        ({"num_epochs": 2, "checkpoint_every": "0.2m"}, Plan(10, 2, 3 + 5)),
    ],
)
def test_the_plan_counts_what_the_run_does(changes: dict[str, Any], plan: Plan) -> None:
    settings = DistillSettings.load(None, {"batch_size": 2, **changes})
    timings = Timings(0, step_s=6, validation_s=0, save_s=0, start_s=0)
    assert plan_of(loop_settings(settings, 10), settings, 10, timings) == plan


def test_the_time_of_the_whole_run_is_the_sum_of_its_parts() -> None:
    timings = Timings(long_step_s=99, step_s=3, validation_s=50, save_s=0.5, start_s=7)
    assert whole_run_s(Plan(steps=10, validations=2, saves=4), timings) == 7 + 30 + 100 + 2
