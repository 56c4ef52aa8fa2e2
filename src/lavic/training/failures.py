"""Failures of the machine that a user can mend, in sentences instead of tracebacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lavic.errors import TrainingError


@contextmanager
def machine_failures() -> Iterator[None]:
    """Inside the block, want of memory becomes a sentence; all other errors pass.

    Raises:
        TrainingError: the GPU's memory is full, or a process that reads pictures was ended from outside.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU's memory is full{_gpu_memory()}",
            remedy="Use a smaller --batch_size (with a larger --gradient_accumulation the result is the same), "
            "or end what else runs on the GPU. The last checkpoint is kept.",
        ) from error
    except RuntimeError as error:
        # torch raises it wherever the main process happens to be when a worker dies.
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        reason = str(error).partition(": ")[2].partition(".")[0]
        raise TrainingError(
            "a process that reads pictures was ended from outside" + (f" ({reason})" if reason else ""),
            remedy="Mostly memory or shared memory ran out: use a smaller --num_workers (0 for none), and in Docker "
            "a larger --shm-size. The last checkpoint is kept.",
        ) from error


def _gpu_memory() -> str:
    if not torch.cuda.is_available():
        return ""
    used = torch.cuda.max_memory_allocated() / 1e9
    return f" (it has {torch.cuda.get_device_properties(0).total_memory / 1e9:.1f} GB; this run took {used:.1f} GB)"
