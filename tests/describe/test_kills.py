"""A run that is killed, or whose disk is full, at any of its file operations comes to the files of one left alone."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bare_world import bare_world, flags, texts
from end_to_end.file_operations import NEEDS_SPACE, FileOperations
from PIL import Image
from small_world import make_world

from lavic.cli.main import run_command_line
from lavic.describe import store_run
from lavic.describe.engines import Answer, Request
from lavic.describe.teacher import Teacher
from lavic.describe.top_logits import TokenLogits, TopLogits
from lavic.files import sha256_file
from lavic.model.load import inspect_base

# Files that are still open where a run dies are closed by the interpreter, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

FILES = ("item2meta_train.json", "item2meta_valid.jsonl")
STORE = "item2meta_train.top_logits"


class NeighbourEngine:
    """Says of each picture who stood beside it, as an engine does whose last bits depend on its batch."""

    weights = "of no model"

    def image_tokens(self, size: tuple[int, int]) -> int:
        return size[0] + size[1]

    def describe(self, requests: list[Request]) -> list[Answer]:
        beside = hashlib.sha256(str([request.seed for request in requests]).encode()).hexdigest()[:8]
        return [Answer(f"Thing {request.seed} beside {beside}. And", 5, cut_off=True) for request in requests]


def numbers_of(teacher: Any, head: Any, pad: int, sequences: Any, images: Any, k: int) -> list[TokenLogits]:
    """In the place of the model's: as many as there are target tokens."""
    found = []
    for sequence in sequences:
        targets = np.array(sequence.input_ids[sequence.prompt_length :], np.uint16)
        ids = np.stack([targets + place for place in range(k)], 1)
        found.append(TokenLogits(targets, ids, -ids.astype(np.float16), np.zeros(len(targets), np.float32)))
    return found


@pytest.fixture(scope="module", autouse=True)
def no_model() -> Iterator[None]:
    """What is tested is files."""
    base = inspect_base("tiny")
    model = SimpleNamespace(lm_head=torch.nn.Linear(2, 2048), config=base.model.config, state_dict=dict)
    light = SimpleNamespace(model=model, tokenizer=base.tokenizer, family=base.family)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Teacher, "engine", lambda self: NeighbourEngine())
        patched.setattr(Teacher, "base", lambda self: light)
        patched.setattr(store_run, "FullTokenModel", lambda base: None)
        patched.setattr(store_run, "top_logits_of", numbers_of)
        yield


def add_pictures(world: Path) -> None:
    """Second pictures of other lengths, so that a batch's order is not the file's."""
    for number, path in enumerate(sorted((world / "train_images").iterdir())):
        other = path.with_name(path.name.replace("_0.jpg", "_1.jpg"))
        if number % 2:
            shutil.copy(path, other)
        else:
            with Image.open(path) as image:
                image.resize((image.width * 2, image.height)).save(other)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = bare_world(tmp_path_factory.mktemp("bare") / "w")
    add_pictures(world)
    return world


def command(world: Path, **more: Any) -> list[str]:
    return flags(world, batch_size=3, top_logits=2, shard_size=8, num_workers=1, **more)


def digest(world: Path) -> dict[str, str]:
    """Metadata and store."""
    paths = [*(world / name for name in FILES), *(world / STORE).glob("[!.]*")]
    return {path.name: sha256_file(path) for path in paths}


@pytest.fixture(scope="module")
def finished(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[str]]:
    """What an uninterrupted run comes to, and its operations."""
    world = Path(shutil.copytree(bare, tmp_path_factory.mktemp("finished") / "w"))
    operations = FileOperations(world)
    with operations.active():
        assert run_command_line(command(world)) == 0
    names = list(texts(world))
    assert len(names) == 22
    assert [name[-5] for name in names] == ["0", "1"] * 10 + ["0"] * 2, "in the order of pictures, not of batches"
    assert len(TopLogits(world / STORE)) == 20
    return digest(world), operations.seen


def test_a_run_killed_at_any_file_operation_goes_on_to_the_same_bytes(
    bare: Path, finished: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    expected, seen = finished
    before = {name: (bare / name).read_bytes() for name in FILES}
    assert len(seen) > 60
    for at, name in enumerate(seen):
        if name.startswith("fsync"):
            continue  # asks the disk only
        world = Path(shutil.copytree(bare, tmp_path / str(at)))
        code: int | None = None
        with FileOperations(world, kill_at=at, torn=True).active():
            code = run_command_line(command(world))
        assert code is None, name
        for metadata in FILES:
            there = (world / metadata).read_bytes()
            assert there == before[metadata] or sha256_file(world / metadata) == expected[metadata], name
        assert run_command_line(command(world)) == 0, name
        assert digest(world) == expected, name
        shutil.rmtree(world)


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    bare: Path, finished: tuple[dict[str, str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, seen = finished
    places = [at for at, name in enumerate(seen) if name.split()[0] in NEEDS_SPACE]
    for at in places[::3]:
        world = Path(shutil.copytree(bare, tmp_path / str(at)))
        with FileOperations(world, full_at=at).active():
            assert run_command_line(command(world)) == 2, seen[at]
        assert "No space left on device" in capsys.readouterr().err, seen[at]
        assert run_command_line(command(world)) == 0
        assert digest(world) == expected, seen[at]
        shutil.rmtree(world)


def test_a_packed_file_on_a_full_disk_is_one_sentence(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Path(shutil.copytree(bare, tmp_path / "w"))
    shutil.make_archive(str(world / FILES[0]), "zip", world, FILES[0])
    (world / FILES[0]).unlink()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lavic.describe.merge.shutil.copyfileobj", full)
    packed = flags(world, train_data=world / "item2meta_train.json.zip")
    assert run_command_line(packed) == 2
    assert "item2meta_train.json: cannot be written (No space left on device)." in capsys.readouterr().err
    monkeypatch.undo()
    assert run_command_line(packed) == 0
    assert "--train_data " + str(world / FILES[0]) in capsys.readouterr().out


def test_an_old_store_that_is_being_replaced_is_never_mixed_with_the_new_one(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", 12)
    assert run_command_line(command(world)) == 0
    more = [*command(world)[:-2], "--overwrite"]
    more[more.index("--top_logits") + 1] = "3"
    operations = FileOperations(world)
    copy = Path(shutil.copytree(world, tmp_path / "copy"))
    with operations.active():
        assert run_command_line(more) == 0
    expected, seen = digest(world), operations.seen
    for at, name in list(enumerate(seen))[::3]:
        other = Path(shutil.copytree(copy, tmp_path / str(at)))
        again = [word.replace(str(world), str(other)) for word in more]
        with FileOperations(other, kill_at=at).active():
            run_command_line(again)
        assert run_command_line(again) == 0, name
        assert digest(other) == expected, name
        shutil.rmtree(other)


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command in a process of its own, as many threads as everywhere in this file."""
    line = [sys.executable, "-m", "lavic.cli.main", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(world: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in world.glob("*.describe.jsonl"))


@pytest.mark.slow
def test_a_process_killed_three_times_ends_with_the_same_bytes(bare: Path, tmp_path: Path) -> None:
    """The tiny teacher, drawing, and kill -9 at seeded moments."""
    left_alone, killed = (Path(shutil.copytree(bare, tmp_path / name)) for name in ("left_alone", "killed"))
    more = {"temperature": 1.0, "batch_size": 2, "top_logits": 4, "shard_size": 8}
    assert start(flags(left_alone, **more)).wait(timeout=300) == 0
    rng = random.Random(5)
    for kill in range(3):
        process, wanted = start(flags(killed, **more)), 6 * kill + rng.randint(2, 6)
        while process.poll() is None and rows(killed) < wanted:
            time.sleep(0.01)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL, "the run was over before it was killed"
    assert start(flags(killed, **more)).wait(timeout=300) == 0
    assert len(texts(killed)) == 22
    assert digest(killed) == digest(left_alone)
