"""A command's base model: what can be seen of it before minutes are spent on loading, and loading it."""

from __future__ import annotations

from typing import Protocol

from lavic.console import Console
from lavic.model.accelerations import require_compiler
from lavic.model.load import BaseModel, check_source, load_base
from lavic.model.quantization import require_bitsandbytes
from lavic.training.devices import choose_device, choose_precision, weights_dtype


class ModelSettings(Protocol):
    """Settings of a command that loads a model: ``TrainingSettings``, and those of ``lavic evaluate``."""

    @property
    def model(self) -> str:
        """A folder, a name on the hub, or ``tiny``."""

    @property
    def device(self) -> str:
        """``auto``, ``cpu`` or ``cuda``."""

    @property
    def precision(self) -> str | None:
        """Number format; None is what suits the device."""

    @property
    def quantize(self) -> str:
        """``none`` or ``nf4``."""


def check_model(settings: ModelSettings, *, compiles: bool = False) -> None:
    """See that the model can be had as it is wanted.

    Args:
        compiles: whether ``torch.compile`` is wanted too.

    Raises:
        ConfigError: the device, the number format or a short cut cannot be had.
        ModelError: the model is a folder that is not there, or not whole.
    """
    choose_precision(settings.precision, choose_device(settings.device))
    if settings.quantize == "nf4":
        require_bitsandbytes()
    if compiles:
        require_compiler()
    check_source(settings.model)


def load_model(settings: ModelSettings, console: Console) -> BaseModel:
    """The checkpoint, on the device, in the run's number format.

    Raises:
        ModelError: it cannot be loaded.
    """
    console.info(f"Loading {settings.model} ...")
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    return load_base(settings.model, dtype=weights_dtype(precision), device=device, four_bit=settings.quantize == "nf4")
