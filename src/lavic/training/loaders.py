"""Micro-batches from worker processes: pictures decoded and cut there, kept as uint8, prefetched."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from collections.abc import Sequence as Rows
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lavic.errors import ConfigError, ImageError
from lavic.images import read_image
from lavic.model.sequences import Sequence, SequenceBuilder, TokenBatch
from lavic.model.views import cut_views
from lavic.skipped import SkipLog
from lavic.training.picture_cache import PictureCache

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Sample:
    """One picture and what is to be said about it.

    Attributes:
        name: the picture's file name, as reports name it.
        path: where the picture lies.
        sequence: prompt and target.
        where: file and line or item that the sample comes from.
    """

    name: str
    path: Path
    sequence: Sequence
    where: str = ""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass gets.

    Attributes:
        indices: samples in it, in row order.
        tokens: their padded sequences; None if no picture could be read.
        views: [B, V, 3, s, s] uint8.
        failed: samples whose picture could not be read, with the reason.
        notice: what the user should hear of, once.
    """

    indices: tuple[int, ...]
    tokens: TokenBatch | None
    views: Tensor
    failed: tuple[tuple[int, str], ...]
    notice: str = ""

    def pin_memory(self) -> MicroBatch:
        """The same with page-locked tensors, which the loader asks for where there is a GPU."""
        tokens = None if self.tokens is None else self.tokens.pin_memory()
        return replace(self, tokens=tokens, views=self.views.pin_memory())


class MicroBatches(Dataset[MicroBatch]):
    """Makes a micro-batch from a list of sample indices; runs in worker processes."""

    def __init__(
        self,
        samples: Rows[Sample],
        builder: SequenceBuilder,
        *,
        view_size: int,
        views: int,
        side: str = "right",
        cache: PictureCache | None = None,
    ) -> None:
        self.samples = samples
        self.builder = builder
        self.view_size = view_size
        self.views = views
        self.side = side
        self.cache = cache

    def list_failed(self, failed: tuple[tuple[int, str], ...], skipped: SkipLog) -> None:
        """Put samples whose picture could not be read on the list of what was left out."""
        for index, reason in failed:
            sample = self.samples[index]
            skipped.add(file=sample.path, where=sample.where, key=sample.name, reason=reason)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: list[int]) -> MicroBatch:
        good: list[int] = []
        pictures: list[Tensor] = []
        failed: list[tuple[int, str]] = []
        for index in indices:
            try:
                pictures.append(torch.from_numpy(self._views_of(self.samples[index].path)))
                good.append(index)
            except ImageError as error:
                failed.append((index, error.problem))
            except Exception as error:  # one picture never ends a run, whatever a decoder raises
                failed.append((index, f"cannot be decoded ({type(error).__name__})"))
        if not good:
            return MicroBatch((), None, torch.empty(0, dtype=torch.uint8), tuple(failed))
        tokens = self.builder.collate([self.samples[index].sequence for index in good], side=self.side)
        notice = self.cache.trouble if self.cache is not None else ""
        return MicroBatch(tuple(good), tokens, torch.stack(pictures), tuple(failed), notice)

    def _views_of(self, path: Path) -> NDArray[np.uint8]:
        if self.cache is not None:
            return self.cache.views_of(path)
        return cut_views(read_image(path), self.view_size, self.views)


#: Of the 107 bytes of a Unix socket's name, what is left by "/pymp-12345678/listener-12345678".
_LONGEST_TEMPORARY = 107 - 32
_FOR_THE_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C in a terminal reaches every process; the run needs its readers until its step has ended."""
    for kind in _FOR_THE_RUN:
        signal.signal(kind, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_RUN)


def _require_short_names(workers: int) -> None:
    """Refuse a folder for temporary files in which the readers' sockets would have no room; they would wait for ever.

    Raises:
        ConfigError: its name is too long.
    """
    folder = tempfile.gettempdir()
    if workers and len(os.fsencode(folder)) > _LONGEST_TEMPORARY:
        raise ConfigError(
            f"{folder} is too long a name for what processes that read pictures exchange "
            f"(more than {_LONGEST_TEMPORARY} bytes)",
            where="TMPDIR",
            remedy="Set TMPDIR to a folder with a shorter name, or give --num_workers 0.",
        )


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that come while the block runs act behind it: a reader that just starts would die of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_RUN)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def micro_batches(dataset: Dataset[Batch], batches: list[list[int]], *, workers: int) -> Generator[Batch, None, None]:
    """The micro-batches in the given order, read ahead by ``workers`` processes (0: in this one).

    Args:
        dataset: makes a batch, of micro-batches or of what it will, from a list of indices.
    """
    if not batches:
        return
    _require_short_names(workers)
    # More processes than cores only get in each other's way, and torch warns of them.
    processes = min(workers, len(batches), len(os.sched_getaffinity(0)))
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=processes,
        prefetch_factor=4 if processes else None,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: iter() would otherwise take a number from the global one.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_signals_to_the_run,
    )
    with _signals_wait():
        iterator = iter(loader)
    try:
        while (batch := next(iterator, None)) is not None:
            yield batch
    finally:
        # Its workers end here, not at the interpreter's exit, where torch can no longer end them in order.
        del iterator
