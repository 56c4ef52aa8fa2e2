"""The language model's weights in 4 bits (NF4), so that a 7B trains on a small card.

Vision tower, projector and ``lm_head`` stay as they are: the first two are what is trained, the last decides the loss's
digits.
Source: Dettmers et al., "QLoRA" (arXiv 2305.14314), section 3; the arithmetic is that of bitsandbytes.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from lavic.errors import ConfigError, ModelError

#: From the start of a module's full name: a bare part's name would match nothing.
_KEPT = ("model.vision_tower", "model.multi_modal_projector", "lm_head")


def require_bitsandbytes() -> None:
    """See that 4-bit weights can be had.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "4-bit weights need bitsandbytes, which is not installed",
            where="--quantize nf4",
            remedy='Install it: pip install "lavic[four-bit]".',
        )


def nf4_arguments(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments for ``from_pretrained``; the weights go to the device as they are read."""
    require_bitsandbytes()
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(_KEPT),
        ),
        "device_map": {"": str(device)},
    }


def settle_quantized(model: nn.Module, where: str) -> None:
    """See that exactly the language model's linear layers are quantised, and let gradients through them.

    Raises:
        ModelError: a layer is that should not be, or the other way round.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    wrong = [name for name, module in linears.items() if (type(module) is nn.Linear) != name.startswith(_KEPT)]
    if wrong:
        raise ModelError(
            f"{len(wrong)} layers have the wrong number format after quantising (for example {wrong[0]})",
            where=where,
            remedy="This transformers or bitsandbytes names layers otherwise; leave --quantize away.",
        )
    for module in linears.values():
        if type(module) is not nn.Linear:
            # After a pass without gradient bitsandbytes would repack its weights for a CPU kernel that passes no
            # gradient on, with a mere warning.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
