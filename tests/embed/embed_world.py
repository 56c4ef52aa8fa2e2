"""The flags to embed a toy shop, stage-1 adapters that change something, and what a store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lavic.embed.ledger import LEDGER_FILE
from lavic.embed.store import STORE_FILE, TOKENS_FILE
from lavic.files import sha256_file
from lavic.images import read_image
from lavic.layout import data_paths
from lavic.model.adapters import LoraSettings, attach_vision_lora, save_adapter
from lavic.model.load import load_base
from lavic.model.views import cut_views

#: Of the shop that most tests use.
ITEMS = 13
STORE_FILES = (TOKENS_FILE, LEDGER_FILE, STORE_FILE)


def flags(world: Path, output: Path, **more: Any) -> list[str]:
    """Command line of ``lavic embed`` on a world; ``more`` adds flags or replaces the usual ones."""
    values: dict[str, Any] = {
        "model": "tiny",
        **data_paths(world),
        "output_dir": output,
        "batch_size": 4,
        "num_workers": 0,
        **more,
    }
    words = ["embed"]
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def fp32_flags(world: Path, store: Path, adapters: list[Path], **more: Any) -> list[str]:
    """The same for the store that most tests begin with: the first adapter, in fp32."""
    return flags(world, store, adapter=adapters[0], store_dtype="fp32", **more)


def make_adapter(folder: Path, seed: int) -> Path:
    """A stage-1 adapter of the tiny model, with weights that change its tokens."""
    wrapped = attach_vision_lora(load_base("tiny").model, LoraSettings(r=2, alpha=4), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02, generator=generator)
    save_adapter(wrapped, folder, base_name="tiny", card="")
    return folder


def digest(store: Path) -> dict[str, str]:
    """A store's three files."""
    return {name: sha256_file(store / name) for name in STORE_FILES}


def ledger(store: Path) -> list[dict[str, Any]]:
    """The lines of a store's ledger."""
    return [json.loads(line) for line in (store / LEDGER_FILE).read_text().splitlines()]


def views_of(path: Path) -> Tensor:
    """[V, 3, s, s] of the tiny model."""
    return torch.from_numpy(cut_views(read_image(path), 40, 5))


def items_of(world: Path) -> dict[str, Path]:
    """Item ID -> its picture 0, in the order of the metadata."""
    paths = data_paths(world)
    train = json.loads(paths["train_data"].read_text())
    found = {item_id: paths["train_images_dir"] / f"{item_id}_0.jpg" for item_id in train}
    for line in paths["val_data"].read_text().splitlines():
        name = json.loads(line)["image_name"]
        found[name.removesuffix("_0.jpg")] = paths["val_images_dir"] / name
    return found
