"""A run that is killed, or whose disk is full, at any of its file operations comes to the files of one left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from embed.embed_world import STORE_FILES, digest, flags, items_of, ledger, make_adapter
from end_to_end.file_operations import NEEDS_SPACE, FileOperations
from safetensors import safe_open
from small_world import make_world

from lavic.cli.main import run_command_line
from lavic.embed import run as embed_run
from lavic.embed.items import Picture
from lavic.embed.ledger import LEDGER_FILE
from lavic.embed.pictures import PictureBatch, PictureBatches
from lavic.embed.store import TOKENS_FILE, ItemStore

# Files that are still open where a run dies are closed by the interpreter, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

PICTURES = 11


class PlacedTower:
    """Tokens that depend on a picture, on its place in the batch and on the batch's size, as a CPU's last bits do."""

    device = torch.device("cpu")

    def __init__(self, *_: Any) -> None:
        pass

    def batches(self, pictures: list[Picture], batch_size: int) -> PictureBatches:
        return PictureBatches(pictures, batch_size, view_size=24, views=5)

    def tokens(self, batch: PictureBatch) -> list[torch.Tensor]:
        views = batch.views
        means = views.float().mean(dim=(2, 3, 4))
        places = torch.arange(len(views)).view(-1, 1)
        return list(torch.stack([means, (places + len(views) * 100).expand_as(means)], dim=2)[:, None])


def marks(base: Any, image_tokens: str) -> dict[str, Any]:
    return {
        "model": {"name": "tiny", "mark": "of no model"},
        "image_tokens": image_tokens,
        **{"views": 5, "dim": 2, "view_size": 24, "pixel_mean": [0.5], "pixel_std": [0.5]},
    }


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested is files; and not the disk, which need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(embed_run, "load_base", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(embed_run, "model_marks", marks)
    monkeypatch.setattr(embed_run, "FiveTokenTower", PlacedTower)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 14 items one has no picture, and two have broken ones, in different batches."""
    world = make_world(tmp_path_factory.mktemp("shop") / "w", 14)
    paths = list(items_of(world).values())
    paths[2].unlink()
    paths[1].write_bytes(b"broken")
    paths[8].write_bytes(b"broken too")
    return world


def command(world: Path, store: Path, **more: Any) -> list[str]:
    return flags(world, store, batch_size=3, **more)


@pytest.fixture
def finished(no_model: None, world: Path, tmp_path: Path) -> tuple[dict[str, str], list[str]]:
    """What an uninterrupted run comes to, and its operations."""
    store = tmp_path / "finished" / "s"
    store.parent.mkdir()
    operations = FileOperations(store.parent)
    with operations.active():
        assert run_command_line(command(world, store)) == 0
    assert len(ItemStore(store)) == PICTURES
    assert len(ItemStore(store).missing) == 3
    return digest(store), operations.seen


def whole_rows(store: Path) -> list[dict[str, Any]]:
    """What a reader sees of a store that a kill left; its tokens are those of the places that are due."""
    if not (store / "store.json").exists():
        return []
    found = ItemStore(store)
    rows = [line for line in ledger_of(store) if "row" in line]
    tokens = found.tokens(list(found)).float()
    assert set(tokens[:, 0, 1].tolist()) <= {300, 301, 302}
    return rows


def ledger_of(store: Path) -> list[dict[str, Any]]:
    path = store / LEDGER_FILE
    if not path.exists():
        return []
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\n") + 1])
    lines = ledger(store)
    path.write_bytes(data)
    return lines


def test_a_run_killed_at_any_file_operation_goes_on_to_the_same_bytes(
    world: Path, finished: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    expected, seen = finished
    assert len(seen) > 40
    seen_rows = set()
    for torn in (False, True):
        for at, name in enumerate(seen):
            if name.startswith("fsync") or (torn and not name.startswith("write")):
                continue  # asks the disk only; only a write can be torn
            store = tmp_path / str(at) / "s"
            code: int | None = None
            store.parent.mkdir()
            with FileOperations(store.parent, kill_at=at, torn=torn).active():
                code = run_command_line(command(world, store))
            assert code is None, name
            seen_rows.add(len(whole_rows(store)))
            assert run_command_line(command(world, store)) == 0, name
            assert digest(store) == expected, name
            with safe_open(store / TOKENS_FILE, "pt") as stream:
                assert stream.get_slice("tokens").get_shape() == [PICTURES, 5, 2]
            shutil.rmtree(store.parent)
    assert seen_rows >= {0, 2, 5, 7, 10, PICTURES}, "it died between batches"
    assert seen_rows & {1, 3, 4, 6, 8, 9}, "it died inside one"


def test_data_are_on_the_disk_before_the_ledger_speaks_of_them(finished: tuple[dict[str, str], list[str]]) -> None:
    _, seen = finished
    names = [name for name in seen if TOKENS_FILE in name or LEDGER_FILE in name]
    batches = [at for at, name in enumerate(names) if name == f"write s/{TOKENS_FILE}"][1:-1]  # but for the header
    assert len(batches) == 5
    for at in batches:
        assert names[at + 1 : at + 3] == [f"fsync s/{TOKENS_FILE}", f"write s/{LEDGER_FILE}"]


def test_a_run_killed_again_and_again_comes_to_the_same_bytes(
    world: Path, finished: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    expected, seen = finished
    rng = random.Random(3)
    for attempt in range(10):
        store, kills = tmp_path / str(attempt) / "s", 0
        store.parent.mkdir()
        while True:
            code: int | None = None
            with FileOperations(store.parent, kill_at=rng.randrange(8, len(seen)), torn=True).active():
                code = run_command_line(command(world, store))
            if code is not None:
                break
            kills += 1
        assert code == 0
        assert kills > 0
        assert digest(store) == expected


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    world: Path, finished: tuple[dict[str, str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, seen = finished
    places = [at for at, name in enumerate(seen) if name.split()[0] in NEEDS_SPACE]
    for at in places:
        store = tmp_path / str(at) / "s"
        store.parent.mkdir()
        with FileOperations(store.parent, full_at=at).active():
            assert run_command_line(command(world, store)) == 2, seen[at]
        said = capsys.readouterr().err
        assert said.count("Error: ") == 1, seen[at]
        assert "No space left on device" in said, seen[at]
        whole_rows(store)
        assert run_command_line(command(world, store)) == 0, seen[at]
        assert digest(store) == expected, seen[at]
        shutil.rmtree(store.parent)


def test_an_old_store_that_is_being_replaced_is_never_mixed_with_the_new_one(
    world: Path, finished: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    old = tmp_path / "old" / "s"
    old.parent.mkdir()
    assert run_command_line(command(world, old, store_dtype="fp32", max_items=6)) == 0
    before, (expected, _) = digest(old), finished
    counted = Path(shutil.copytree(old.parent, tmp_path / "counted"))
    operations = FileOperations(counted)
    with operations.active():
        assert run_command_line(command(world, counted / "s", overwrite=True)) == 0
    assert digest(counted / "s") == expected
    untouched = 0
    for at, name in enumerate(operations.seen):
        if name.startswith("fsync"):
            continue
        store = Path(shutil.copytree(old.parent, tmp_path / f"{at}")) / "s"
        with FileOperations(store.parent, kill_at=at, torn=True).active():
            run_command_line(command(world, store, overwrite=True))
        if all((store / name).exists() for name in STORE_FILES) and digest(store) == before:
            untouched += 1
        elif (store / "store.json").exists():
            assert ItemStore(store).dtype == torch.bfloat16, name
            whole_rows(store)
        assert run_command_line(command(world, store, overwrite=True)) == 0, name
        assert digest(store) == expected, name
        shutil.rmtree(store.parent)
    assert untouched > 0


def test_added_items_and_a_repaired_picture_survive_kills_too(no_model: None, world: Path, tmp_path: Path) -> None:
    """Here old and new rows alternate in the metadata: the places of a batch are those of this run's pictures."""
    start = tmp_path / "start"
    shutil.copytree(world, start / "w")
    paths = list(items_of(start / "w").values())
    held_back = {path: path.read_bytes() for path in paths[3::2] if path.name != paths[8].name}
    for path in held_back:
        path.unlink()
    assert run_command_line(command(start / "w", start / "s")) == 0
    for path, data in held_back.items():
        path.write_bytes(data)
    paths[1].write_bytes(paths[0].read_bytes())
    counted = Path(shutil.copytree(start, tmp_path / "counted"))
    operations = FileOperations(counted / "s")
    with operations.active():
        assert run_command_line(command(counted / "w", counted / "s")) == 0
    expected = digest(counted / "s")
    assert len(ItemStore(counted / "s")) == PICTURES + 1
    for at, name in enumerate(operations.seen):
        if name.startswith("fsync"):
            continue
        place = Path(shutil.copytree(start, tmp_path / str(at)))
        with FileOperations(place / "s", kill_at=at, torn=True).active():
            run_command_line(command(place / "w", place / "s"))
        assert run_command_line(command(place / "w", place / "s")) == 0, name
        assert digest(place / "s") == expected, name
        shutil.rmtree(place)


# -- real processes ------------------------------------------------------------------------------------------


def start_process(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with two threads, where the place in a batch decides last bits."""
    line = [sys.executable, "-m", "lavic.cli.main", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(store: Path) -> int:
    path = store / LEDGER_FILE
    return path.read_bytes().count(b'"row"') if path.exists() else 0


@pytest.mark.slow
def test_a_process_killed_three_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """The tiny model in fp32, reading in two processes, and kill -9 at seeded moments."""
    large_world = make_world(tmp_path / "large", 240)
    left_alone, killed = tmp_path / "left_alone", tmp_path / "killed"
    adapter = make_adapter(tmp_path / "adapter", 1)
    more: dict[str, Any] = {"adapter": adapter, "store_dtype": "fp32", "batch_size": 2, "num_workers": 2}
    assert start_process(flags(large_world, left_alone, **more)).wait(timeout=300) == 0
    rng = random.Random(5)
    for kill in range(3):
        process, wanted = start_process(flags(large_world, killed, **more)), 60 * kill + rng.randint(2, 40)
        while process.poll() is None and rows(killed) < wanted:
            time.sleep(0.01)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL, "the run was over before it was killed"
    assert start_process(flags(large_world, killed, **more)).wait(timeout=300) == 0
    assert len(ItemStore(killed)) == 240
    assert digest(killed) == digest(left_alone)
