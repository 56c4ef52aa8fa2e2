"""A run that dies, or whose disk is full, at any of its file operations loses nothing that a checkpoint held."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from end_to_end.file_operations import NEEDS_SPACE, FileOperations
from end_to_end.run_results import results
from small_world import flags, make_world

import lavic.training.base_model
from lavic.cli.main import run_command_line
from lavic.files import sha256_file
from lavic.model.load import BaseModel, load_base
from lavic.training.checkpoints import CHECKPOINT_FILE, read_state

# Files that are still open where a run dies are closed by the interpreter, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

# Dropout, shuffling, accumulation 2 with an uneven last micro-batch, warm-up, cosine, validation inside the epoch. At
# this rate each validation is better than the one before, so that each step writes an adapter.
SETTINGS = {
    "batch_size": 2,
    "gradient_accumulation": 2,
    "max_samples": 6,
    "num_epochs": 2,
    "max_steps": 3,
    "lr": "3e-4",
    "warmup": 1,
    "schedule": "cosine",
    "val_every": "1",
    "checkpoint_every": "1",
}
# Where half a write is another case than none: the other files are written under a name that nothing reads.
TORN = ("events.jsonl", "tfevents", "checkpoint.safetensors", "adapter_model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def small_model() -> Iterator[None]:
    """The tiny model with fewer layers, loaded once and copied for each run: what is tested is files."""
    loaded: dict[str, BaseModel] = {}

    def load(name: str, **options: Any) -> BaseModel:
        if name not in loaded:
            base = load_base(name, **options)
            base.model.model.vision_tower.encoder.layers = base.model.model.vision_tower.encoder.layers[:2]
            base.model.model.language_model.layers = base.model.model.language_model.layers[:1]
            loaded[name] = base
        return copy.deepcopy(loaded[name])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lavic.training.base_model, "load_base", load)
        yield


@dataclass(frozen=True)
class Place:
    """Where a run writes: everything below ``root``."""

    world: Path
    root: Path

    @property
    def output(self) -> Path:
        return self.root / "out"

    def run(self, operations: FileOperations | None = None, **more: Any) -> int | None:
        """The exit code of a run; None if it was killed."""
        self.root.mkdir(parents=True, exist_ok=True)
        arguments = flags(self.world, self.output, **{**SETTINGS, "log_dir": self.root / "logs", **more})
        code = None
        with (operations or FileOperations(self.root)).active():
            code = run_command_line(arguments)
        return code

    def copied(self, root: Path) -> Place:
        """The same, somewhere else, as if it had been written there.

        Without the text logs: of two in one second the second gets the next one's name, by more operations.
        """
        shutil.copytree(self.root, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("logs"))
        return Place(self.world, root)

    def digest(self) -> dict[str, str]:
        """Every file that is there, apart from the text logs."""
        files = (path for path in self.root.rglob("*") if path.is_file() and path.parent.name != "logs")
        return {path.relative_to(self.root).as_posix(): sha256_file(path) for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), items=12)


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, list[str]]:
    """An uninterrupted run and its operations."""
    place = Place(world, tmp_path_factory.mktemp("finished"))
    operations = FileOperations(place.root)
    assert place.run(operations) == 0
    written = {final_name(name) for name in place.digest()}
    assert written <= {name.split()[1] for name in seen(operations)}, "a file is written past the counter"
    return place, seen(operations)


@pytest.fixture(scope="module")
def expected(finished: tuple[Place, list[str]]) -> dict[str, Any]:
    return results(finished[0].output)


@pytest.fixture(scope="module")
def begun(world: Path, finished: tuple[Place, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that was killed behind its first checkpoint."""
    place = Place(world, tmp_path_factory.mktemp("begun"))
    assert place.run(FileOperations(place.root, kill_at=checkpoints(finished[1])[0])) is None
    state = read_state(place.output)
    assert state is not None
    assert (state.step, state.finished) == (1, False)
    return place


def seen(operations: FileOperations) -> list[str]:
    """The operations with the names that files get in the end: "write out/events.jsonl"."""
    return [final_name(name) for name in operations.seen]


def final_name(name: str) -> str:
    """Without what differs from run to run: the number of the process and the time."""
    name = re.sub(r"\.([^/]+)\.\d+\.part$", r"\1", name)
    return re.sub(r"(training_|tfevents\.).*", r"\1", name)


@pytest.fixture(scope="module")
def resumed(begun: Place, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The operations of a run that goes on from ``begun``."""
    place = begun.copied(tmp_path_factory.mktemp("resumed"))
    operations = FileOperations(place.root)
    assert place.run(operations, resume=True) == 0
    return seen(operations)


def checkpoints(operations: list[str]) -> list[int]:
    """Behind which operations a checkpoint was complete."""
    return [number + 1 for number, name in enumerate(operations) if name == f"replace out/{CHECKPOINT_FILE}"]


def kill_everywhere(
    operations: list[str],
    numbers: range,
    start: Callable[[Path], Place],
    expected: dict[str, Any],
    tmp_path: Path,
    **more: Any,
) -> int:
    """Kill a run in front of each operation, and inside writes, resume it and compare; how many states there were.

    Args:
        operations: those of the whole run.
        numbers: which of them.
        start: what is there before the run, made anew in a folder.
        more: further flags of the run that is killed.
    """
    resumed = 0
    cases = [(number, torn) for number in numbers for torn in (False, True)]
    for number, torn in cases:
        kind, name = operations[number].split()
        if torn and not (kind == "write" and any(part in name for part in TORN)):
            continue
        if not torn and number > numbers.start and changes_nothing(operations[number - 1]):
            continue  # the same bytes on disk as one operation before
        place = start(tmp_path / f"{number}{'torn' if torn else ''}")
        label = f"{'in' if torn else 'before'} operation {number}, {operations[number]}"
        fault = FileOperations(place.root, kill_at=number, torn=torn)
        assert place.run(fault, **more) is None, label
        assert seen(fault) == operations[: number + 1], label
        if "overwrite" in more and not (place.output / CHECKPOINT_FILE).exists():
            # Rows that say finished, without their checkpoint, are not begun anew by --resume.
            assert place.run(resume=True) in (0, 2), label
            assert place.run(**more) == 0, label
        else:
            assert place.run(resume=True) == 0, label
        assert results(place.output) == expected, label
        resumed += 1
    return resumed


def changes_nothing(operation: str) -> bool:
    """Whether all that a resumed run reads is as it was before: it never looks at a text log."""
    kind, name = operation.split()
    return kind == "fsync" or name.startswith("logs/")


def test_a_kill_between_any_two_operations_around_a_checkpoint_loses_nothing(
    begun: Place, resumed: list[str], expected: dict[str, Any], tmp_path: Path
) -> None:
    # From the row of the second step to behind the next checkpoint: TensorBoard, validation at the end of the
    # epoch, adapter, metrics file, checkpoint.
    window = range(resumed.index("write out/events.jsonl"), checkpoints(resumed)[0] + 1)
    for name in ("events.jsonl", "tensorboard/events.out.tfevents.", "val_metrics_epoch_1.txt"):
        assert f"write out/{name}" in resumed[window.start : window.stop]
    states = kill_everywhere(resumed, window, begun.copied, expected, tmp_path, resume=True)
    assert states > 20


@pytest.mark.slow
def test_a_kill_between_any_two_operations_of_a_run_loses_nothing(
    world: Path, finished: tuple[Place, list[str]], expected: dict[str, Any], tmp_path: Path
) -> None:
    operations = finished[1]

    def nothing(root: Path) -> Place:
        return Place(world, root)

    states = kill_everywhere(operations, range(len(operations)), nothing, expected, tmp_path)
    assert states > 100


@pytest.mark.slow
def test_a_kill_while_a_run_is_taken_up_again_loses_nothing(
    begun: Place, resumed: list[str], expected: dict[str, Any], tmp_path: Path
) -> None:
    window = range(resumed.index("write out/events.jsonl"))
    assert kill_everywhere(resumed, window, begun.copied, expected, tmp_path, resume=True) > 10


@pytest.mark.slow
def test_a_kill_while_a_finished_run_is_replaced_leaves_all_of_it_or_none(
    finished: tuple[Place, list[str]], expected: dict[str, Any], tmp_path: Path
) -> None:
    # The settings are the same, so that both the old run and its repetition leave what is expected.
    place = finished[0].copied(tmp_path / "whole")
    operations = FileOperations(place.root)
    assert place.run(operations, overwrite=True) == 0
    names = seen(operations)
    first = names.index(f"unlink out/{CHECKPOINT_FILE}")
    trials = [name for name in names[:first] if name.startswith("unlink out/")]
    assert set(trials) == {"unlink out/probe"}
    window = range(first - 1, names.index("open out/config.yaml") + 1)
    assert kill_everywhere(names, window, finished[0].copied, expected, tmp_path, overwrite=True) > 10


# -- a full disk ---------------------------------------------------------------------------------------------


def fill_disk(number: int, place: Place, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Let the disk be full from an operation of a resumed run on, then resume again; what the user was told."""
    capsys.readouterr()
    assert place.run(FileOperations(place.root, full_at=number), resume=True) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (sentence,) = [line for line in error.splitlines() if line.startswith("Error: ")]
    state = read_state(place.output)
    assert state is not None
    assert place.run(resume=True) == 0
    told = capsys.readouterr().err
    assert f"Resumed at step {state.step} of 3" in told or (state.finished and "has finished already" in told)
    assert results(place.output) == expected
    return f"{state.step}: {sentence}"


@pytest.mark.parametrize(
    "operation",
    [
        "write out/config.yaml",
        "open logs/training_",
        "write logs/training_",
        "write out/tensorboard/events.out.tfevents.",
        "write out/events.jsonl",
        "mkdir out/vision_lora_adapter_best",
        "write out/vision_lora_adapter_best/adapter_model.safetensors",
        "write out/val_metrics_epoch_1.txt",
        "write out/checkpoint.safetensors",
        "fsync out/checkpoint.safetensors",
        "replace out/checkpoint.safetensors",
    ],
)
def test_a_full_disk_is_one_sentence_and_costs_no_checkpoint(
    begun: Place,
    expected: dict[str, Any],
    resumed: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    operation: str,
) -> None:
    place = begun.copied(tmp_path / "begun")
    told = fill_disk(resumed.index(operation), place, expected, capsys)
    assert told.startswith(f"1: Error: {tmp_path}/begun/")
    assert "written (No space left on device)" in told


@pytest.mark.slow
def test_a_disk_that_is_full_from_any_operation_on_costs_no_checkpoint(
    begun: Place,
    expected: dict[str, Any],
    resumed: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers = [number for number, name in enumerate(resumed) if name.split()[0] in NEEDS_SPACE]
    assert len(numbers) > 60
    for number in numbers:
        told = fill_disk(number, begun.copied(tmp_path / str(number)), expected, capsys)
        assert "No space left on device" in told, resumed[number]
