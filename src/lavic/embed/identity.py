"""What a store was made by: compared before anything is added to it, and before anything is read from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lavic.config import VERSIONED_PACKAGES, versions
from lavic.embed.config import ALL, FIVE
from lavic.model.adapters import VISION_PARTS, check_vision_adapter, fingerprint
from lavic.model.load import BaseModel
from lavic.model.marks import sampled_values

#: What makes visual tokens what they are, of what ``store.json`` says, beside model and adapter.
VIEW_FACTS = ("image_tokens", "views", "dim", "view_size", "pixel_mean", "pixel_std", "grids")


def vision_mark(model: nn.Module) -> str:
    """One value for the weights that visual tokens are made with: names, shapes, some values of each.

    Values are rounded to bf16, so that a checkpoint is the same one whether loaded in fp32 or bf16 (in fp16 too, if
    its files are), and the language model does not count: it may be quantised, or carry LoRA. LoRA on the vision side
    does not count while it is not merged.
    """
    return _mark(model, [f"model.{part}" for part in VISION_PARTS])


def language_mark(model: nn.Module) -> str:
    """The same for the language model, of what 4-bit weights and an adapter leave as it is: words and norms."""
    return _mark(model, ["model.language_model", "lm_head"], only=("embed_tokens", "norm", "lm_head"))


def _mark(model: nn.Module, parts: Sequence[str], only: tuple[str, ...] = ("",)) -> str:
    """Of some parts' weights without LoRA, if their names hold one of ``only``."""
    digest = hashlib.sha256()
    for part in parts:
        for name, tensor in sorted(model.get_submodule(part).state_dict().items()):
            name = f"{part.removeprefix('model.')}.{name.replace('base_layer.', '')}"
            if "lora_" not in name and any(each in name for each in only):
                digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
                digest.update(sampled_values(tensor, rounded_to=torch.bfloat16))
    return digest.hexdigest()


def adapter_mark(folder: Path | None) -> dict[str, str] | None:
    """Name and fingerprint of a stage-1 adapter; None for the bare model.

    Raises:
        AdapterError: the folder holds no adapter, one of the language model alone, or its weights cannot be read.
    """
    if folder is None:
        return None
    check_vision_adapter(folder)
    return {"name": folder.resolve().name, "fingerprint": fingerprint(folder)}


def model_marks(base: BaseModel, image_tokens: str = FIVE) -> dict[str, Any]:
    """What a model says about the tokens that it makes; ``base`` without an adapter merged into it.

    Args:
        image_tokens: ``FIVE`` are a [CLS] a view, V in a row of the store; ``ALL`` are those of the checkpoint's own
            views, one in a row.
    """
    grids = {"grids": getattr(base.model.config, "image_grid_pinpoints", None)} if image_tokens == ALL else {}
    return {
        "model": {"name": base.name, "mark": vision_mark(base.model)},
        "image_tokens": image_tokens,
        "views": 1 if image_tokens == ALL else base.family.views,
        "dim": int(base.model.config.text_config.hidden_size),
        "view_size": base.view_size,
        "pixel_mean": list(base.pixel_mean),
        "pixel_std": list(base.pixel_std),
        **grids,
    }


def base_marks(base: BaseModel) -> dict[str, Any]:
    """What a model says of itself to whoever tunes it: the same, and its language model's mark."""
    return {**model_marks(base), "language": language_mark(base.model)}


def library_versions() -> dict[str, str]:
    """Of lavic and of the libraries that decide the last bits."""
    found = versions()
    return {name: found[name] for name in ("lavic", *VERSIONED_PACKAGES)}


def what_differs(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What a store was made with that is not wanted, in words: as far as ``wanted`` goes, "" if all is the same."""
    clauses = []
    if "model" in wanted and known["model"]["mark"] != wanted["model"]["mark"]:
        was, now = known["model"]["name"], wanted["model"]["name"]
        clauses.append(f"other weights of the model {was}" if was == now else f"another model ({was}, not {now})")
    elif "language" in wanted and known.get("language") != wanted["language"]:
        clauses.append(f"another language model behind the vision side of {wanted['model']['name']}")
    if "adapter" in wanted and _fingerprint(known) != _fingerprint(wanted):
        clauses.append(f"another stage-1 adapter ({_fingerprint(known)}, not {_fingerprint(wanted)})")
    if "image_tokens" in wanted and known["image_tokens"] != wanted["image_tokens"]:
        clauses.append(f"{known['image_tokens']} image tokens, not {wanted['image_tokens']}")
    elif _views(known, wanted) != _views(wanted, wanted):
        clauses.append(_other_views(known, wanted))
    for name, flag in (("dtype", "--store_dtype"), ("precision", "--precision")):
        if name in wanted and known[name] != wanted[name]:
            clauses.append(f"{flag} {known[name]}, not {wanted[name]}")
    return " and ".join(clauses)


def _fingerprint(about: Mapping[str, Any]) -> str:
    adapter = about["adapter"]
    return "none" if adapter is None else str(adapter["fingerprint"])


def _other_views(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    was, now = (f"{each['views']} of {each['view_size']} pixels" for each in (known, wanted))
    if was != now:
        return f"other views ({was}, not {now})"
    grids = "grids" in wanted and known.get("grids") != wanted["grids"]
    return "other grids of tiles" if grids else "pictures normalised in another way"


def _views(about: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Any]:
    return [about.get(name) for name in VIEW_FACTS if name in wanted]
