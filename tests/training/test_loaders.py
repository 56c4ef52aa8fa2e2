"""Micro-batches: the same from any number of workers, and a picture that fails costs itself alone."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from lavic.errors import ConfigError
from lavic.model.sequences import SequenceBuilder
from lavic.model.views import cut_views
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tokenizer import train_tokenizer
from lavic.training import loaders
from lavic.training.loaders import MicroBatch, MicroBatches, Sample, micro_batches

# With fewer cores than workers DataLoader remarks on it.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def builder() -> SequenceBuilder:
    return SequenceBuilder(train_tokenizer(), DEFAULT_PROMPTS, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Nine files, of which 2 (cut), 4 (missing), 5 (text) and 7 (a pipe) are no pictures."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + 9 * number, 70 - 6 * number, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    (folder / "4.png").unlink()
    (folder / "5.png").write_text("not a picture")
    (folder / "7.png").unlink()
    os.mkfifo(folder / "7.png")
    return folder


@pytest.fixture(scope="module")
def dataset(folder, builder) -> MicroBatches:
    samples = [
        Sample(f"{number}.png", folder / f"{number}.png", builder.distill(f"Title {number}", "red " * number))
        for number in range(9)
    ]
    return MicroBatches(samples, builder, view_size=40, views=5)


BATCHES = [[8, 0, 3], [2, 1], [4, 5], [7, 6], [6]]


def test_a_micro_batch_holds_its_samples_in_order(dataset, builder, folder):
    batch = dataset[[8, 0, 3]]
    assert batch.indices == (8, 0, 3)
    assert batch.failed == ()
    assert batch.views.shape == (3, 5, 3, 40, 40)
    assert batch.views.dtype == torch.uint8
    for row, number in enumerate((8, 0, 3)):
        with Image.open(folder / f"{number}.png") as image:
            assert np.array_equal(batch.views[row].numpy(), cut_views(image, 40))
    wanted = builder.collate([dataset.samples[number].sequence for number in (8, 0, 3)])
    assert torch.equal(batch.tokens.input_ids, wanted.input_ids)
    assert torch.equal(batch.tokens.labels, wanted.labels)


def test_a_broken_picture_is_reported_and_left_out(dataset):
    batch = dataset[[2, 1]]
    assert batch.indices == (1,)
    assert batch.views.shape[0] == len(batch.tokens.input_ids) == 1
    assert batch.failed == ((2, "the image is cut off"),)


def test_a_micro_batch_without_any_picture_is_empty(dataset):
    batch = dataset[[4, 5]]
    assert (batch.indices, batch.tokens) == ((), None)
    assert [index for index, _ in batch.failed] == [4, 5]
    assert batch.failed[1][1] == "the file is not an image of a known kind"


def test_a_pipe_in_a_pictures_place_does_not_hang(dataset):
    batch = dataset[[7, 6]]
    assert batch.indices == (6,)
    assert [index for index, _ in batch.failed] == [7]


def test_whatever_a_decoder_raises_costs_one_picture(dataset, monkeypatch):
    def fails(path: Path) -> None:
        raise MemoryError if path.name == "0.png" else ZeroDivisionError("inside of a decoder")

    monkeypatch.setattr(loaders, "read_image", fails)
    assert dataset[[0, 1]].failed == (
        (0, "cannot be decoded (MemoryError)"),
        (1, "cannot be decoded (ZeroDivisionError)"),
    )


def same(one: MicroBatch, other: MicroBatch) -> bool:
    if (one.tokens is None) != (other.tokens is None):
        return False
    equal = one.indices == other.indices and one.failed == other.failed and torch.equal(one.views, other.views)
    if one.tokens is None or other.tokens is None:
        return equal
    fields = ("input_ids", "attention_mask", "labels", "is_eos", "placeholder_positions")
    return equal and all(torch.equal(getattr(one.tokens, name), getattr(other.tokens, name)) for name in fields)


@pytest.mark.parametrize("workers", [1, 2, 50])
def test_any_number_of_workers_gives_the_same_batches(dataset, workers):
    here = list(micro_batches(dataset, BATCHES, workers=0))
    there = list(micro_batches(dataset, BATCHES, workers=workers))
    assert [batch.indices for batch in here] == [(8, 0, 3), (1,), (), (6,), (6,)]
    assert len(there) == len(here)
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_takes_nothing_from_the_global_random_state(dataset, workers):
    # Dropout draws from it; a resumed run reads other batches and must draw the same.
    state = torch.get_rng_state()
    assert len(list(micro_batches(dataset, BATCHES[:2], workers=workers))) == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_no_batches_need_no_workers(dataset):
    assert list(micro_batches(dataset, [], workers=2)) == []


def test_left_padding_and_one_view_reach_the_batch(folder):
    builder = SequenceBuilder(train_tokenizer(), DEFAULT_PROMPTS, 1)
    samples = [Sample(f"{n}.png", folder / f"{n}.png", builder.distill("Title " * (n + 1), "x")) for n in (0, 1)]
    batch = MicroBatches(samples, builder, view_size=24, views=1, side="left")[[0, 1]]
    assert batch.views.shape == (2, 1, 3, 24, 24)
    assert batch.tokens.left_padded
    assert batch.tokens.attention_mask[:, -1].tolist() == [True, True]


def test_a_reader_that_a_signal_finds_while_it_starts_lives_on(dataset, monkeypatch):
    # A batch system that sends SIGTERM to all processes; torch has just put its own handler in place there.
    handling = torch.utils.data._utils.signal_handling
    original = handling._set_worker_signal_handlers

    def struck() -> None:
        original()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(handling, "_set_worker_signal_handlers", struck)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert [batch.indices for batch in micro_batches(dataset, [[0], [1]], workers=1)] == [(0,), (1,)]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


class Doubled(Dataset[list[int]]):
    """Twice each index."""

    def __getitem__(self, indices: list[int]) -> list[int]:
        return [2 * index for index in indices]


def test_a_folder_for_temporary_files_that_leaves_sockets_no_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    with pytest.raises(ConfigError, match=r"^TMPDIR: .* is too long a name"):
        next(micro_batches(Doubled(), [[1]], workers=1))
    assert next(micro_batches(Doubled(), [[1]], workers=0)) == [2]
