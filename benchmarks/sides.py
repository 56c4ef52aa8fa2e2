"""The sides of the comparison: the published algorithm, lavic, and lavic with one switch the other way.

All sides share one model and one set of LoRA weights; what they differ in is set before each block of steps. A block
is a run in miniature: readers are started, every sample is trained on once, readers end; all of it is timed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from published import PublishedDistillation
from shapes import Shape, make_base
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import batch_loss
from lavic.distill.samples import costs
from lavic.distill.setup import make_prefix
from lavic.model.accelerations import PLAIN, Accelerations
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, set_lora_dropout
from lavic.model.prefix_cache import PrefixCache
from lavic.model.sequences import SequenceBuilder, TokenBatch
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.devices import make_fabric, weights_dtype
from lavic.training.loaders import MicroBatch, MicroBatches, Sample, micro_batches
from lavic.training.loop import seed_dropout
from lavic.training.picture_cache import PictureCache
from lavic.training.sampler import epoch_batches


@dataclass(frozen=True)
class Side:
    """What is timed.

    Attributes:
        accelerations: None for the published algorithm.
        by_length: batches of similar length; False takes random ones.
        workers: processes that read pictures; 0 reads inside the step.
        picture_cache: cut pictures are kept on disk; they lie there already when a block is timed.
    """

    name: str
    accelerations: Accelerations | None
    by_length: bool
    workers: int
    picture_cache: bool = False

    def without(self, name: str, **changes: object) -> Side:
        """The same side with one thing changed, under another name."""
        return replace(self, name=name, **changes)  # type: ignore[arg-type]


PUBLISHED = Side("published", None, by_length=False, workers=0)


def lavic_side(workers: int) -> Side:
    """All of lavic's defaults, but for the number of workers."""
    return Side("lavic", Accelerations(), by_length=True, workers=workers)


def switched(side: Side, device: torch.device) -> list[tuple[Side, bool]]:
    """lavic with each switch the other way, alone, and whether that other way is on.

    Switches that default to on are switched off, others on; ``compile`` only on a GPU: on a CPU it takes minutes
    and a C++ compiler.
    """
    assert side.accelerations is not None, "only lavic has switches"
    found: list[tuple[Side, bool]] = []
    for field in (field for field in fields(Accelerations) if field.name in DistillSettings.model_fields):
        default = getattr(side.accelerations, field.name)
        if not isinstance(default, bool) or (field.name == "compile" and device.type != "cuda"):
            continue
        other = replace(side.accelerations, **{field.name: not default})
        found.append((side.without(field.name, accelerations=other), not default))
    found.append((side.without("group_by_length", by_length=False), False))
    readers = 0 if side.workers else DistillSettings().num_workers
    found.append((side.without("num_workers", workers=readers), readers > 0))
    found.append((side.without("picture_cache", picture_cache=True), True))
    return found


@dataclass
class Block:
    """What one block of steps took.

    Attributes:
        waiting: seconds in which the step stood still for pictures (for the published side: made them).
        first: seconds until the first step was done.
        cpu_s: seconds of processor time, readers included; on a busy machine steadier than the clock's.
    """

    samples: int
    seconds: float
    waiting: float
    first: float
    cpu_s: float

    @property
    def samples_per_s(self) -> float:
        """Rate over the whole block."""
        return self.samples / self.seconds


class Bench:
    """One model with random weights and LoRA, and the samples to train it on.

    Args:
        samples: a multiple of ``batch_size`` of them.
        dropout: of LoRA; 0 where two sides are to agree.
    """

    def __init__(
        self,
        shape: Shape,
        samples: list[Sample],
        builder: SequenceBuilder,
        *,
        batch_size: int,
        precision: str,
        device: torch.device,
        seed: int,
        dropout: float = 0.1,
    ) -> None:
        self.device = device
        self.seed = seed
        self.batch_size = batch_size
        self.precision = precision
        self.fabric = make_fabric(device, precision)
        self.base = make_base(shape, dtype=weights_dtype(precision), device=device, seed=seed)
        self.wrapped = attach_vision_lora(self.base.model, LoraSettings(dropout=dropout), seed=seed)
        self.parameters = lora_parameters(self.base.model)
        self._fill_lora()
        set_lora_dropout(self.wrapped, dropout > 0)
        settings = DistillSettings()
        self.clip = settings.gradient_clip
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.samples = samples
        sizes = {"view_size": self.base.view_size, "views": self.base.family.views}
        cache = PictureCache(samples[0].path.parent / "cut", **sizes)
        self.datasets = {
            False: MicroBatches(samples, builder, **sizes),
            True: MicroBatches(samples, builder, **sizes, cache=cache),
        }
        self.published = PublishedDistillation(self.base, builder)
        self.student = FiveTokenModel(self.base)
        self._prefixes: dict[bool, PrefixCache | None] = {}

    def _fill_lora(self) -> None:
        """B starts at zero, where A has no gradient; with small numbers every LoRA weight has one."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)

    def batches(self, side: Side) -> list[list[int]]:
        """Indices of each batch: every sample once."""
        return epoch_batches(costs(self.samples), self.batch_size, seed=self.seed, epoch=0, by_length=side.by_length)

    def prefix(self, side: Side) -> PrefixCache | None:
        """The cache of the instruction, made once a run and kept."""
        assert side.accelerations is not None, "the published algorithm has none"
        wanted = side.accelerations.prefix_cache
        if wanted not in self._prefixes:
            with self.fabric.autocast():
                self._prefixes[wanted] = make_prefix(self.student, self.samples)
        return self._prefixes[wanted]

    def arrange(self, side: Side) -> None:
        """Set the model's layers as a side wants them; the published one takes them as they come."""
        self.student.accelerate(side.accelerations or PLAIN)
        if side.accelerations is not None:
            self.prefix(side)

    # -- one batch -----------------------------------------------------------------------------------------

    def loss(self, side: Side, indices: list[int]) -> Tensor:
        """Mean loss of a batch, read in this process."""
        return next(self._losses(side, [indices], workers=0))[0]()

    def _losses(
        self, side: Side, batches: list[list[int]], *, workers: int
    ) -> Iterator[tuple[Callable[[], Tensor], int, float]]:
        """For each batch: what computes its mean loss, its samples, and the seconds that its pictures took."""
        if side.accelerations is None:
            yield from self._published_losses(batches)
            return
        prefix = self.prefix(side)

        def loss_of(batch: MicroBatch) -> Tensor:
            with self.fabric.autocast():
                found = batch_loss(self.student, batch, prefix)
                return found.total / len(found.nats)

        asked = time.perf_counter()
        for batch in micro_batches(self.datasets[side.picture_cache], batches, workers=workers):
            assert not batch.failed, "the drawn pictures can all be read"
            yield partial(loss_of, batch), len(batch.indices), time.perf_counter() - asked
            asked = time.perf_counter()

    def _published_losses(self, batches: list[list[int]]) -> Iterator[tuple[Callable[[], Tensor], int, float]]:
        def loss_of(pixels: Tensor, tokens: TokenBatch) -> Tensor:
            with self.fabric.autocast():
                return self.published.loss_of(pixels, tokens)

        for indices in batches:
            rows = [self.samples[index] for index in indices]
            asked = time.perf_counter()
            pixels = self.published.read_pictures([row.path for row in rows])
            tokens = self.published.builder.collate([row.sequence for row in rows])

            yield partial(loss_of, pixels, tokens), len(rows), time.perf_counter() - asked

    # -- blocks --------------------------------------------------------------------------------------------

    def run_block(self, side: Side, *, steps: int | None = None) -> Block:
        """Train on every sample once (or for some steps) and time it, starting the readers included."""
        self.arrange(side)
        samples, waiting, first = 0, 0.0, 0.0
        self._wait_for_device()
        started, cpu_before = time.perf_counter(), cpu_seconds()
        for step, (loss, rows, waited) in enumerate(
            self._losses(side, self.batches(side)[:steps], workers=side.workers)
        ):
            seed_dropout(self.seed, step, 0)
            self.fabric.backward(loss())
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            # Every step is waited for, on both sides: the loop reads each step's loss for its log.
            self._wait_for_device()
            samples, waiting = samples + rows, waiting + waited
            first = first or time.perf_counter() - started
        return Block(samples, time.perf_counter() - started, waiting, first, cpu_seconds() - cpu_before)

    def vision_share(self) -> float:
        """Share of the published side's arithmetic that tower and projector do, counted on the first batch."""
        self.arrange(PUBLISHED)
        indices = self.batches(PUBLISHED)[0]
        with counted_flops() as whole:
            self.loss(PUBLISHED, indices).backward()  # type: ignore[no-untyped-call]
        pixels = self.published.read_pictures([self.samples[index].path for index in indices])
        with counted_flops() as vision, self.fabric.autocast():
            self.published.visual_tokens(pixels).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)
        return float(vision.get_total_flops() / whole.get_total_flops())

    def _wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def count_flops(self, side: Side) -> float:
        """Floating-point operations a sample, forward and backward, over every sample once.

        What is done once a run (the prefix) is not counted; neither is elementwise work.
        """
        plain = side
        if side.accelerations is not None:
            plain = side.without(side.name, accelerations=replace(side.accelerations, compile=False))
        self.arrange(plain)
        total: float = 0
        for loss, _, _ in self._losses(plain, self.batches(plain), workers=0):
            with counted_flops() as counter:
                loss().backward()  # type: ignore[no-untyped-call]
            total += counter.get_total_flops()
            self.optimizer.zero_grad(set_to_none=True)
        return total / len(self.samples)


def attention_flops(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Fused attention forward: QK and PV, in full under any mask; fewer key heads are as good as repeated ones."""
    rows, heads, queries, width = query
    return 2 * rows * heads * queries * key[2] * (width + value[3])


def attention_backward_flops(
    gradient: tuple[int, ...], query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any
) -> int:
    """Four products; the fifth, computing QK again, is the kernel's own choice and not the algorithm's."""
    return 2 * attention_flops(query, key, value)


def added_product_flops(_: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...], *__: Any, **___: Any) -> int:
    """A matrix product added to what is there."""
    return 2 * left[0] * left[1] * right[1]


_aten = torch.ops.aten
#: torch's counter does not know products in place or the CPU's attention, refuses fewer key heads and counts five
#: products backward.
COUNTED = {
    _aten.addmm_: added_product_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    _aten._scaled_dot_product_flash_attention: attention_flops,
    _aten._scaled_dot_product_efficient_attention: attention_flops,
    _aten._scaled_dot_product_cudnn_attention: attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
    _aten._scaled_dot_product_flash_attention_backward: attention_backward_flops,
    _aten._scaled_dot_product_efficient_attention_backward: attention_backward_flops,
    _aten._scaled_dot_product_cudnn_attention_backward: attention_backward_flops,
}


def counted_flops() -> FlopCounterMode:
    """Counts the matrix products inside a ``with`` block, those of attention alike on every device."""
    return FlopCounterMode(display=False, custom_mapping=COUNTED)


def cpu_seconds() -> float:
    """Processor time of this process and of the readers that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
