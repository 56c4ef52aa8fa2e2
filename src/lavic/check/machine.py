"""The machine: device and memory, cores and shared memory, versions of the libraries."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Protocol

import torch
from packaging.requirements import Requirement

from lavic.check.findings import Finding, gigabytes, no_go, ok, plural, warning
from lavic.check.memory import Need
from lavic.check.model import ModelFacts
from lavic.distill.config import DistillSettings
from lavic.model.accelerations import require_compiler
from lavic.model.quantization import require_bitsandbytes
from lavic.training.devices import choose_device, choose_precision
from lavic.training.settings import TrainingSettings

_SHARED_MEMORY = Path("/dev/shm")  # where worker processes put what they have read
#: As ``training/loaders.py`` reads ahead, in micro-batches per worker.
_READ_AHEAD = 4
_LESS_MEMORY = "a smaller --batch_size with a larger --gradient_accumulation gives the same result with less memory"
_SHORTER = "validation's prompts become shorter with a smaller --max_length"
#: Above this many parameters a CPU takes days.
_LARGE = 1_000_000_000


def device(settings: TrainingSettings, facts: ModelFacts | None) -> Finding:
    """Where the run computes, and in which number format.

    Raises:
        ConfigError: the device or the number format cannot be had.
    """
    chosen = choose_device(settings.device)
    precision = choose_precision(settings.precision, chosen)
    if chosen.type == "cuda":
        return ok("device", f"{torch.cuda.get_device_name(0)}, {precision}")
    found = f"CPU, {plural(torch.get_num_threads(), 'thread')}, {precision}"
    if facts is not None and facts.parameters > _LARGE:
        return warning("device", found, remedy="A model of this size takes days on a CPU: use a machine with a GPU.")
    return ok("device", found)


def short_cuts(settings: TrainingSettings) -> Finding:
    """Whether what the flags ask for beyond PyTorch is installed.

    Raises:
        ConfigError: it is not.
    """
    found = []
    if settings.quantize == "nf4":
        require_bitsandbytes()
        found.append("--quantize nf4: bitsandbytes is there")
    if settings.compile:
        require_compiler()
        found.append("--compile: a compiler is there")
    return ok("short cuts", *found)


class Estimate(Protocol):
    """An estimate of ``lavic.check.memory`` that knows settings, model and data already."""

    def __call__(self, *, precision: str, on_gpu: bool) -> Need:
        """The need in a number format, ``fp32``, ``bf16`` or ``fp16``."""


def memory(
    settings: TrainingSettings, estimate: Estimate | None, *, measured_by: str = ""
) -> tuple[Finding, Need | None]:
    """What the run needs against what there is.

    Args:
        estimate: None without the model.
        measured_by: a flag that measures it, if the command has one.

    Raises:
        ConfigError: as ``device``.
    """
    chosen = choose_device(settings.device)
    on_gpu = chosen.type == "cuda"
    ram = available_memory()
    if estimate is None:
        return ok(
            "memory (estimate)", f"{gigabytes(ram)} of main memory free; the need is not known without the model"
        ), None
    need = estimate(precision=choose_precision(settings.precision, chosen), on_gpu=on_gpu)
    tight = f"It is tight: {measured_by} measures it." if measured_by else "It is tight."
    parts = [
        f"weights {gigabytes(need.weights)}, LoRA with AdamW {gigabytes(need.lora)}",
        f"activations {gigabytes(need.activations)} (batch {settings.batch_size}, {need.longest:,} tokens with "
        "gradient)",
    ]
    if need.scoring:
        parts.append(f"or, while it validates, {gigabytes(need.scoring)}")
    less = _SHORTER if need.scoring > need.activations + need.logits else _LESS_MEMORY
    if not on_gpu:
        facts_found = (f"needs about {gigabytes(need.device)} of main memory, {gigabytes(ram)} are free", *parts)
        return _memory_row(facts_found, need.device, ram, f"Free some main memory; {less}.", tight), need
    free, total = torch.cuda.mem_get_info()
    found = (
        f"needs about {gigabytes(need.device)} of the GPU's {gigabytes(total)}, {gigabytes(free)} are free",
        *parts,
        f"needs about {gigabytes(need.main)} of main memory, {gigabytes(ram)} are free",
    )
    if need.main > ram:
        return _memory_row(found, need.main, ram, "The weights pass through main memory: free some.", tight), need
    return _memory_row(found, need.device, free, f"End what else runs on the GPU; {less}.", tight), need


def _memory_row(found: tuple[str, ...], need: float, free: float, remedy: str, tight: str) -> Finding:
    """NO GO only where even a generous error of the estimate would not help; a tight fit is a warning."""
    if need > 1.25 * free:
        return no_go("memory (estimate)", *found, remedy=remedy)
    if need > 0.9 * free:
        return warning("memory (estimate)", *found, remedy=f"{tight} {remedy}")
    return ok("memory (estimate)", *found)


def available_memory() -> float:
    """Bytes of main memory that this process can get: what the system has free, or what its container may have."""
    limits = [_meminfo("MemAvailable")]
    group = Path("/sys/fs/cgroup")
    maximum, current = _number(group / "memory.max"), _number(group / "memory.current")
    if maximum is not None and current is not None:
        limits.append(maximum - current)
    return float(min((limit for limit in limits if limit is not None), default=0))


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit, or the word "max"
        return None


def workers(settings: DistillSettings, facts: ModelFacts | None) -> Finding:
    """Processes that read pictures, against cores and the memory that they share."""
    cores = len(os.sched_getaffinity(0))
    found = [f"--num_workers {settings.num_workers}, {plural(cores, 'core')}"]
    if settings.num_workers == 0:
        if choose_device(settings.device).type == "cuda":
            return warning("workers", *found, remedy=f"The GPU waits for pictures: give --num_workers {min(4, cores)}.")
        return ok("workers", *found, "pictures are read in the main process")
    if facts is not None and _SHARED_MEMORY.is_dir():
        side, views = facts.base.view_size, facts.base.family.views
        processes = min(settings.num_workers, cores)
        need = processes * _READ_AHEAD * settings.batch_size * views * 3 * side**2
        free = shutil.disk_usage(_SHARED_MEMORY).free
        if need > free:
            found.append(f"shared memory: {gigabytes(free)} free, about {gigabytes(need)} needed")
            return no_go("workers", *found, remedy="Use a smaller --num_workers, or in Docker a larger --shm-size.")
    if settings.num_workers > cores:
        return warning("workers", *found, remedy=f"No more than {cores} will be started: give --num_workers {cores}.")
    return ok("workers", *found)


def library_versions() -> Finding:
    """The installed libraries against those that lavic asks for."""
    shown, wrong = [f"Python {platform.python_version()}"], []
    for line in metadata.requires("lavic") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append((f"{requirement.name} is not installed", str(requirement)))
            continue
        if requirement.name in ("torch", "transformers", "peft"):
            shown.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append((f"{requirement.name} {version} is not {requirement.specifier}", str(requirement)))
    if wrong:
        asked = " ".join(f"'{requirement}'" for _, requirement in wrong)
        return no_go("versions", ", ".join(shown), *(what for what, _ in wrong), remedy=f"pip install {asked}.")
    return ok("versions", ", ".join(shown))
