"""Which device and number format a run computes with."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from lavic.errors import ConfigError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FABRIC_NAMES = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` to a device.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "no NVIDIA GPU can be used on this machine", where="--device cuda", remedy="Use --device cpu."
        )
    use_gpu = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")


def choose_precision(asked: str | None, device: torch.device) -> str:
    """What was asked for; else fp32 on a CPU, and bf16 (or fp16 on older cards) on a GPU.

    Raises:
        ConfigError: fp16 is asked for on a CPU, where autocast does not know it.
    """
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 needs a GPU", where="--precision fp16", remedy="On a CPU take fp32 or bf16.")
    if asked is not None:
        return asked
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def weights_dtype(precision: str) -> torch.dtype:
    """Type of the frozen weights; LoRA's stay fp32."""
    return _DTYPES[precision]


def make_fabric(device: torch.device, precision: str) -> Fabric:
    """Fabric for one device."""
    return Fabric(accelerator=device.type, devices=1, precision=_FABRIC_NAMES[precision])
