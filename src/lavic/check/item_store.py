"""The item store of stage 2: whether it opens, and whether this model and this adapter made it."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lavic.check.findings import Finding, gigabytes, no_go, ok, plural, warning
from lavic.check.model import ModelFacts
from lavic.check.output import existing_part, not_writable
from lavic.embed.identity import adapter_mark, what_differs
from lavic.embed.items import check_data, find_pictures, read_items
from lavic.embed.store import ItemStore, check_store, row_bytes
from lavic.errors import InputError
from lavic.model.adapters import VISION_PARTS, canonical_key
from lavic.model.load import BaseModel, public_name
from lavic.skipped import SkipLog
from lavic.tune.config import TuneSettings
from lavic.tune.setup import check_conversations, embed_settings

NAME, MAKER = "item store", "item store and model"


class PlannedStore(ItemStore):
    """Stands in for a store that the run will make: which pictures it will hold is known, their tokens are not.

    Args:
        items: ID -> how many pictures it has.
        views: V.
    """

    def __init__(self, items: Mapping[str, int], views: int) -> None:
        self._items = items
        self.views = views

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    @property
    def all_image_tokens(self) -> bool:
        """A store that tuning makes holds five."""
        return False

    def images_of(self, item_id: str) -> int:
        """As ``ItemStore``."""
        return self._items[item_id]

    def tokens_of(self, item_id: str, image: int = 0) -> int:
        """As ``ItemStore``."""
        return self.views


def open_or_plan(settings: TuneSettings, facts: ModelFacts | None) -> tuple[Finding, ItemStore]:
    """The store as the run will find it, or what it will make of it.

    Raises:
        LavicError: it cannot be opened or made.
    """
    path = settings.item_store
    assert path is not None, "the settings see to that"
    there = ItemStore(path) if path.exists() else None
    if there is None or (there.unfinished and settings.vision_adapter is not None):
        return _planned(settings, facts, there)
    number = "all image tokens of" if there.all_image_tokens else f"{there.views} x"
    tokens = f"{number} {there.dim} numbers each, {there.about['dtype']}"
    found = f"{path}: {plural(len(there), 'item')} with visual tokens, {tokens}"
    if there.unfinished:
        remedy = "Run the same lavic embed again; what it lacks is shown without its picture."
        return warning(NAME, found, "it is not finished", remedy=remedy), there
    return ok(NAME, found), there


def _planned(settings: TuneSettings, facts: ModelFacts | None, there: ItemStore | None) -> tuple[Finding, ItemStore]:
    """A store that the run makes or completes before it trains."""
    assert settings.item_store is not None, "the settings see to that"
    # Only the store and the adapter: the files have rows of their own.
    check_conversations(settings.model_copy(update={"prompts": None, "item_meta_path": None, "val_data": None}))
    embed = embed_settings(settings, model=settings.model, device=settings.device, precision=settings.precision)
    check_data(embed)
    pictures = find_pictures(read_items(embed, SkipLog()), embed.images_per_item)
    items = Counter(picture.item_id for picture in pictures.pictures)
    known = {} if there is None else {item_id: there.images_of(item_id) for item_id in there}
    planned = PlannedStore(known | items, 0 if facts is None else facts.base.family.views)
    doing = "made" if there is None else f"completed: {plural(len(there), 'item')} of it are there"
    found = [
        f"{settings.item_store}: will be {doing}, before training begins",
        f"{plural(len(items), 'item')} of {pictures.items:,} with a picture",
    ]
    blocked = not_writable(settings.item_store)
    if blocked or not items:
        remedy = "Choose another --item_store." if blocked else "Give --train_images_dir and --val_images_dir."
        return no_go(NAME, *found, *([blocked] if blocked else []), remedy=remedy), planned
    remedy = "Make it beforehand with lavic embed, so that all of it can be looked at."
    if facts is not None:
        text = facts.base.model.config.text_config
        row = {"views": facts.base.family.views, "dim": text.hidden_size, "dtype": embed.store_dtype}
        place = existing_part(settings.item_store)
        free, need = shutil.disk_usage(place).free, len(pictures.pictures) * row_bytes(row)
        found.append(f"{gigabytes(free)} free at {place}; it takes {gigabytes(need)}")
        if need > free:
            return no_go(NAME, *found, remedy="Free some space, or choose another --item_store."), planned
    return warning(NAME, *found, remedy=remedy), planned


def compare(store: ItemStore, settings: TuneSettings, facts: ModelFacts | None) -> Finding:
    """Whether model and stage-1 adapter are those that made a store.

    Raises:
        InputError: they are not.
        AdapterError: ``--vision_adapter`` is none.
    """
    made_with = store.about["adapter"]
    maker = "without an adapter: its visual tokens are undistilled"
    if store.all_image_tokens:
        maker = "as published, with all image tokens"
    if made_with is not None:
        maker = f"with the adapter {made_with['name']} ({made_with['fingerprint']})"
    found = [f"made by {store.about['model']['name']} {maker}"]
    if facts is not None:
        base = replace(with_vision_side(facts.base), name=public_name(settings.model))
        check_store(store, base, settings.vision_adapter, where=str(store.folder))
        found.append("--model is the one that made it")
    elif settings.vision_adapter is not None:
        different = what_differs(store.about, {"adapter": adapter_mark(settings.vision_adapter)})
        if different:
            raise InputError(f"the store was made with {different}", where=str(store.folder))
    if settings.vision_adapter is not None:
        found.append("--vision_adapter is the one that it was made with")
    elif made_with is not None:
        found.append("no --vision_adapter is given to compare it with")
    if facts is None:
        remedy = "Until the model is here it cannot be compared with what made the store."
        return warning(MAKER, *found, remedy=remedy)
    return ok(MAKER, *found)


def with_vision_side(base: BaseModel) -> BaseModel:
    """The model with the weights of tower and projector, as its files hold them; the rest stays on the meta device.

    What makes visual tokens is a twentieth of a 7B, and it is all that a store can be compared with.
    """
    model = copy.deepcopy(base.model)
    sides = {part: model.get_submodule(f"model.{part}") for part in VISION_PARTS}
    places = {canonical_key(f"{part}.{name}"): (part, name) for part in sides for name in sides[part].state_dict()}
    weights: dict[str, dict[str, Tensor]] = {part: {} for part in sides}
    for path in sorted(Path(base.source).glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 (it is no mapping)
                part, name = places.get(canonical_key(key), ("", ""))
                if part:
                    weights[part][name] = stored.get_tensor(key)
    with torch.no_grad():
        for part, side in sides.items():
            side.load_state_dict(weights[part], assign=True)
    return replace(base, model=model)
