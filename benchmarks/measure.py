"""Measurements: do two sides agree, how fast is the device at best, how much memory does a side take."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence as Rows
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from sides import PUBLISHED, Block, Side
from torch import Tensor, nn

from lavic.errors import TrainingError
from lavic.training.devices import weights_dtype


class Timed(Protocol):
    """What can be timed: ``sides.Bench``, and the benches of stage 2."""

    device: torch.device

    def arrange(self, side: Side) -> None: ...

    def run_block(self, side: Side, *, steps: int | None = None) -> Block: ...


class Trained(Protocol):
    """What can be compared in loss and gradients."""

    optimizer: torch.optim.Optimizer
    parameters: dict[str, nn.Parameter]

    def arrange(self, side: Side) -> None: ...

    def batches(self, side: Side) -> list[Any]: ...

    def loss(self, side: Side, batch: Any) -> Tensor: ...


#: In fp32 two orders of summation differ by 1e-7 a number; over a model's depth loss stays within the first,
#: the gradient (difference over length, all LoRA weights) within the second.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3


@dataclass(frozen=True)
class Parity:
    """How far lavic and the published algorithm are apart on the same batch, without dropout, relative."""

    loss_difference: float
    gradient_difference: float
    loss_tolerance: float = LOSS_TOLERANCE
    gradient_tolerance: float = GRADIENT_TOLERANCE
    precision: str = "fp32"

    @property
    def agrees(self) -> bool:
        """Whether both are within their tolerance (a NaN is not)."""
        return self.loss_difference <= self.loss_tolerance and self.gradient_difference <= self.gradient_tolerance

    def require(self) -> None:
        """Stop if the sides do not compute the same.

        Raises:
            TrainingError: with both differences.
        """
        if not self.agrees:
            raise TrainingError(
                f"loss and LoRA gradients differ by {self.loss_difference:.2g} and {self.gradient_difference:.2g} of "
                f"their size, more than {self.loss_tolerance:g} and {self.gradient_tolerance:g}",
                where="lavic and the published algorithm",
                remedy="Nothing was timed: sides that compute different things cannot be compared.",
            )


def parity(bench: Trained, side: Side) -> Parity:
    """Compare a side with the published one on the first random batch."""
    indices = bench.batches(PUBLISHED)[0]
    losses, gradients = [], []
    for one in (PUBLISHED, side):
        bench.arrange(one)
        bench.optimizer.zero_grad(set_to_none=True)
        loss = bench.loss(one, indices)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        parts = [parameter.grad for parameter in bench.parameters.values()]
        assert all(part is not None for part in parts), "every LoRA weight has a gradient"
        gradients.append(torch.cat([part.double().flatten() for part in parts if part is not None]))
    bench.optimizer.zero_grad(set_to_none=True)
    apart = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    return Parity(abs(losses[1] - losses[0]) / abs(losses[0]), apart)


def peak_flops_per_s(device: torch.device, precision: str) -> float:
    """What a large product of square matrices reaches, best of several, in the same precision and threads."""
    size = 8192 if device.type == "cuda" else 1536
    left = torch.randn(size, size, device=device).to(weights_dtype(precision))
    best = math.inf
    for _ in range(8):
        _synchronize(device)
        started = time.perf_counter()
        left @ left
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# -- a side alone, in a process of its own --------------------------------------------------------------------


@dataclass(frozen=True)
class Alone:
    """A side that runs by itself.

    Attributes:
        peak_memory_bytes: most since the model was loaded: of the process on a CPU, of torch's allocator on a GPU.
        before_bytes: the same kind of memory with the model loaded and before the first step.
        first_step_s: from the loaded model to the end of the first step: prefix, readers, first pictures.
        libraries_bytes: of the process before there was a model: Python and its libraries; on a GPU nothing.
    """

    peak_memory_bytes: int
    before_bytes: int
    first_step_s: float
    libraries_bytes: int = 0

    @property
    def own_peak_bytes(self) -> int:
        """Most memory of model and run, which is what a GPU counts."""
        return self.peak_memory_bytes - self.libraries_bytes


def libraries_bytes(device: torch.device) -> int:
    """What the process takes now, before a model is made; a GPU's memory holds none of it."""
    return 0 if device.type == "cuda" else resident_bytes("VmRSS")


def measure_alone(bench: Timed, side: Side, *, steps: int, libraries: int = 0) -> Alone:
    """Run a few steps in this process, which must not have done anything else.

    Args:
        libraries: what ``libraries_bytes`` gave before the bench was made.
    """
    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_the_past()
    before = torch.cuda.memory_allocated() if cuda else resident_bytes("VmRSS")
    started = time.perf_counter()
    bench.arrange(side)
    prepared = time.perf_counter() - started
    block = bench.run_block(side, steps=steps)
    peak = torch.cuda.max_memory_allocated() if cuda else resident_bytes("VmHWM")
    return Alone(peak, before, prepared + block.first, libraries)


def alone_in_subprocess(script: Path, flags: Rows[str], side: str) -> Alone:
    """The same in a new process.

    Raises:
        TrainingError: the process failed; its last line says why.
    """
    command = [sys.executable, str(script), *flags, "--only", side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TrainingError(f"measuring its memory failed ({last})", where=side)
    return Alone(**json.loads(done.stdout))


def print_alone(alone: Alone) -> None:
    """What the parent process reads."""
    print(json.dumps(asdict(alone)))


def forget_the_past() -> None:
    """Give what making the model left unused back to the system, and count the most memory from now on (Linux)."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    counter = Path("/proc/self/clear_refs")
    if counter.exists():
        with contextlib.suppress(OSError):  # some containers forbid it: then the most is that of making, if it is more
            counter.write_text("5")


def resident_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (the most so far) of this process.

    ``ru_maxrss`` alone would not do on Linux: a new process starts with its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -- blocks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """Medians over the blocks of one side."""

    samples_per_s: float
    input_share: float
    cpu_s_per_sample: float


def rate_of(blocks: Rows[Block]) -> Rate:
    """Medians over blocks."""
    return Rate(
        samples_per_s=statistics.median(block.samples_per_s for block in blocks),
        input_share=statistics.median(block.waiting / block.seconds for block in blocks),
        cpu_s_per_sample=statistics.median(block.cpu_s / block.samples for block in blocks),
    )
