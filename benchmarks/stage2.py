"""What ``tune.py`` and ``evaluate.py`` compare the sides on: one model, its item store, conversations.

Both sides share one model with random weights and one set of LoRA weights on its language model. The published side has
LoRA on ``lm_head`` too, as it was published; lavic has none there, as by its own defaults. Where the sides are compared
in what they compute, neither has.

lavic's item store is written by lavic's own writer with the tokens that lavic's own tower makes of the pictures: once,
before anything is measured, as ``lavic embed`` does for all epochs and evaluations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from published import PublishedRecommendation
from shapes import Shape, Shop, make_base
from sides import PUBLISHED, Block, Side, counted_flops
from torch import Tensor

from lavic.embed.identity import library_versions, model_marks
from lavic.embed.store import FORMAT, KIND, STORE_FILE, ItemStore
from lavic.embed.writer import Entry, StoreWriter
from lavic.model.accelerations import PLAIN, Accelerations
from lavic.model.adapters import LoraSettings, attach_language_lora, lora_parameters
from lavic.model.load import BaseModel
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.model.views import cut_views
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.skipped import SkipLog
from lavic.training.devices import make_fabric, weights_dtype
from lavic.tune.config import TuneSettings
from lavic.tune.conversations import Catalogue

#: Pictures whose tokens are made at a time.
STORE_BATCH = 10


class ChoosingBench(ABC):
    """One model with random weights and LoRA, an item store, and conversations; a subclass trains or answers.

    Args:
        folder: where the item store is, or is made.
        dropout: of LoRA; 0 where two sides are to agree.
        lm_head: whether the published side has LoRA there.
        accelerations: lavic's.
    """

    def __init__(
        self,
        shape: Shape,
        shop: Shop,
        folder: Path,
        *,
        precision: str,
        device: torch.device,
        seed: int,
        accelerations: Accelerations,
        dropout: float = 0.1,
        lm_head: bool = True,
    ) -> None:
        self.device, self.seed, self.precision, self.shop = device, seed, precision, shop
        self.fabric = make_fabric(device, precision)
        self.base = make_base(shape, dtype=weights_dtype(precision), device=device, seed=seed)
        builder = SequenceBuilder(self.base.tokenizer, DEFAULT_PROMPTS, self.base.family.views)
        self.prompts = RecommendationPrompts(builder, TuneSettings().max_length)
        self.published = PublishedRecommendation(self.base, builder)
        self.student = FiveTokenModel(self.base, accelerations)
        store = folder / f"store-{shape.name}-{shape.vision_layers}-{precision}"
        if not (store / STORE_FILE).exists():
            write_store(store, self.base, self.student, shop, precision)
        self.catalogue = Catalogue(shop.titles, ItemStore(store), SkipLog())
        self.lora = LoraSettings(dropout=dropout)
        self.wrapped = attach_language_lora(self.base.model, self.lora, seed=seed, lm_head=lm_head)
        self.wrapped.to(device)
        self.parameters = lora_parameters(self.base.model)
        self._fill_lora()
        head = self.base.model.lm_head
        self.heads = {PUBLISHED.name: head, "lavic": head.base_layer if lm_head else head}
        self.lavic = Side("lavic", accelerations, by_length=TuneSettings().group_by_length, workers=0)

    def _fill_lora(self) -> None:
        """B starts at zero, where A has no gradient and the adapter no effect."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)

    @property
    def sides(self) -> list[Side]:
        """Both."""
        return [PUBLISHED, self.lavic]

    def arrange(self, side: Side) -> None:
        """Set the model's layers as a side wants them; the published one takes them as they come."""
        self.base.model.lm_head = self.heads[side.name]
        self.student.accelerate(side.accelerations or PLAIN)

    def read(self, candidates: Rows[Rows[Candidate]]) -> Tensor:
        """[N, 5, 3, s, s] pixels of all candidates of all rows, as the published side reads them."""
        return self.published.read_pictures([self.shop.pictures[each.item_id] for row in candidates for each in row])

    @abstractmethod
    def run_block(self, side: Side, *, steps: int | None = None) -> Block:
        """Do what a side does for every conversation (or for some steps) and time it."""

    @abstractmethod
    def count_flops(self, side: Side) -> float:
        """Floating-point operations a conversation, over every conversation once; elementwise work is not counted."""

    @abstractmethod
    def lengths(self) -> list[int]:
        """Tokens that the published side reads for each conversation."""

    def vision_flops(self) -> float:
        """What tower and projector take on the published side for one conversation."""
        candidates = [self.catalogue.candidate(item_id) for item_id in _given(self.shop)]
        pixels = self.read([candidates])
        with counted_flops() as counter, self.fabric.autocast():
            self.published.visual_tokens(pixels)
        return float(counter.get_total_flops())

    def wait_for_device(self) -> None:
        """Until all that was asked of a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _given(shop: Shop) -> Rows[str]:
    return next(iter(shop.conversations[0].candidates.values()))


def write_store(folder: Path, base: BaseModel, student: FiveTokenModel, shop: Shop, precision: str) -> None:
    """The item store of all products, in the run's number format, with lavic's own tower and writer."""
    folder.mkdir(parents=True)
    about = {"kind": KIND, "format": FORMAT, "adapter": None, "dtype": precision, "precision": precision}
    about |= {**model_marks(base), "versions": library_versions()}
    pictures = list(shop.pictures.items())
    with StoreWriter(folder, about) as writer, torch.no_grad():
        writer.begin({})
        for start in range(0, len(pictures), STORE_BATCH):
            some = pictures[start : start + STORE_BATCH]
            views = [_views(path, base) for _, path in some]
            tokens = student.visual_tokens(torch.from_numpy(np.stack(views)).to(base.model.device))
            writer.append([Entry(item_id, 0, path.stat().st_size, item_id) for item_id, path in some], tokens)
        writer.finish({})


def _views(path: Path, base: BaseModel) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        return cut_views(picture.convert("RGB"), base.view_size, base.family.views)
