"""Failures of the machine that a user can mend, in sentences instead of tracebacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lavic.errors import TrainingError

# What torch says in errors of a general kind: no room for a first byte on the GPU, for its libraries, on a CPU.
_FULL_GPU = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_FULL_MACHINE = "DefaultCPUAllocator: can't allocate memory"


@contextmanager
def machine_failures(remedy: str = "") -> Iterator[None]:
    """Inside the block, want of memory becomes a sentence; all other errors pass.

    Args:
        remedy: what mends it in a command that does not train; "" for a training run's own mends.

    Raises:
        TrainingError: the memory of the GPU or of the machine is full, or a process that reads pictures was ended
            from outside.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in _FULL_GPU):
            raise TrainingError(
                f"the GPU's memory is full{_gpu_memory()}",
                remedy=remedy
                or "End what else runs on the GPU and go on with --resume; or start again with, in this order, a "
                "smaller --batch_size (with a larger --gradient_accumulation the result is the same), "
                "--activation_checkpointing, --quantize nf4, a smaller --max_length.",
            ) from error
        if isinstance(error, MemoryError) or _FULL_MACHINE in text:
            raise TrainingError(
                "the machine's memory is full",
                remedy=remedy
                or "End other programs, or use a smaller --num_workers, --batch_size or --max_length. "
                "The last checkpoint is kept.",
            ) from error
        # torch raises it wherever the main process happens to be when a worker dies.
        if not text.startswith("DataLoader worker (pid"):
            raise
        reason = text.partition(": ")[2].partition(".")[0]
        raise TrainingError(
            "a process that reads pictures was ended from outside" + (f" ({reason})" if reason else ""),
            remedy=remedy
            or "Mostly memory or shared memory ran out: use a smaller --num_workers (0 for none), and in Docker "
            "a larger --shm-size. The last checkpoint is kept.",
        ) from error


def _gpu_memory() -> str:
    if not torch.cuda.is_available():
        return ""
    used = torch.cuda.max_memory_allocated() / 1e9
    return f" (it has {torch.cuda.get_device_properties(0).total_memory / 1e9:.1f} GB; this run took {used:.1f} GB)"
