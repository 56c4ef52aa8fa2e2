"""The systems that are compared: what each is shown, and which adapter answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavic.embed.identity import what_differs
from lavic.embed.store import ItemStore
from lavic.errors import AdapterError, InputError
from lavic.evaluate.config import EvaluateSettings
from lavic.model.accelerations import Accelerations
from lavic.model.adapters import load_language_adapter
from lavic.model.load import BaseModel
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import load_prompts
from lavic.tune.card import Recommender, prompts_mark, read_recommender

LAVIC, GREEDY = "lavic", "lavic_greedy"
RANDOM, IN_ORDER = "random", "candidate_order"
ZERO_SHOT, ZERO_SHOT_TEXT = "zero_shot", "zero_shot_text"
TEXT_ONLY, UNDISTILLED, FULL_TOKENS = "text_only", "undistilled", "full_tokens"


@dataclass(frozen=True)
class System:
    """One way to answer with the model.

    Attributes:
        adapter: None is the bare model.
        pictures: the store that its visual tokens come from; None shows none.
        recommender: how the adapter was trained; None for the bare model.
        greedy: generate instead of scoring.
    """

    name: str
    adapter: Path | None
    pictures: Path | None
    recommender: Recommender | None = None
    greedy: bool = False


def systems_of(settings: EvaluateSettings) -> list[System]:
    """The systems that need the model, the one that is judged first.

    Raises:
        AdapterError: a folder is none of lavic tune's.
        InputError: an adapter was tuned with pictures and is to be judged without, or the other way round, or with
            another number of them, or with another wording of the prompt.
    """
    store = None if settings.text_only else settings.item_store
    found: list[System] = []
    if settings.adapter is not None:
        recommender = _read(settings.adapter, settings, text_only=False, flag="--adapter")
        found.append(System(LAVIC, settings.adapter, store, recommender))
        if settings.greedy:
            found.append(System(GREEDY, settings.adapter, store, recommender, greedy=True))
    elif store is not None:
        found.append(System(ZERO_SHOT, None, store))
    others = (
        (UNDISTILLED, settings.undistilled_adapter, settings.undistilled_store),
        (FULL_TOKENS, settings.full_tokens_adapter, settings.full_tokens_store),
    )
    for name, adapter, pictures in others:
        if adapter is not None:
            recommender = _read(adapter, settings, text_only=False, flag=f"--{name}_adapter")
            found.append(System(name, adapter, pictures, recommender))
    if settings.text_only_adapter is not None:
        recommender = _read(settings.text_only_adapter, settings, text_only=True, flag="--text_only_adapter")
        found.append(System(TEXT_ONLY, settings.text_only_adapter, None, recommender))
    if settings.zero_shot or not found:
        found.append(System(ZERO_SHOT_TEXT, None, None))
    return found


def _read(folder: Path, settings: EvaluateSettings, *, text_only: bool, flag: str) -> Recommender:
    recommender = read_recommender(folder)
    if recommender.text_only != text_only:
        seen = "without pictures" if recommender.text_only else "with pictures"
        other = "--text_only_adapter" if recommender.text_only else "--adapter"
        raise InputError(f"the adapter {folder}/ was tuned {seen}", where=flag, remedy=f"Give it as {other}.")
    if not text_only and recommender.images_per_item != settings.images_per_item:
        raise InputError(
            f"the adapter {folder}/ was tuned with --images_per_item {recommender.images_per_item}",
            where="--images_per_item",
            remedy="Show it as many pictures as it was tuned with.",
        )
    if recommender.prompts not in (None, prompts_mark(load_prompts(settings.prompts))):
        raise InputError(
            f"the adapter {folder}/ was tuned with another wording of the prompt",
            where=flag,
            remedy="Give --prompts as lavic tune was given it.",
        )
    return recommender


def tuned_otherwise(systems: list[System]) -> str:
    """What the adapters' trainings differ in from the first one's, in words; "" if in nothing that is known."""
    trained = [(system.name, system.recommender) for system in systems if system.recommender is not None]
    clauses = [
        f"{name} with {what} {theirs} ({trained[0][0]}: {ours})"
        for name, recommender in trained[1:]
        for what, ours, theirs in _trainings(trained[0][1], recommender)
        if ours != theirs and None not in (ours, theirs)
    ]
    return "; ".join(clauses)


def _trainings(first: Recommender, other: Recommender) -> Iterator[tuple[str, Any, Any]]:
    """What both say of how they were trained."""
    yield "optimizer steps", first.steps, other.steps
    yield "samples per step", first.samples_per_step, other.samples_per_step
    yield "training samples", first.train_samples, other.train_samples
    yield "--lr", first.lr, other.lr
    yield "--lora_r", first.lora_r, other.lora_r
    yield "--lora_alpha", first.lora_alpha, other.lora_alpha
    yield "--seed", first.seed, other.seed
    yield "--candidate_type", first.candidate_type, other.candidate_type


def check_adapters(base: BaseModel, marks: Mapping[str, Any], systems: list[System]) -> None:
    """See that each adapter was tuned on this model and fits it, before one of them answers.

    Args:
        marks: what the model says of itself, as ``lavic.embed.identity.base_marks`` has it.

    Raises:
        AdapterError: it was tuned on another model, does not fit, or its weights cannot be read.
    """
    for system in {system.adapter: system for system in systems}.values():
        if system.adapter is None or system.recommender is None:
            continue
        known = system.recommender.base
        different = what_differs(known, marks) if known else ""
        if different:
            raise AdapterError(
                f"it was tuned on {different}",
                where=str(system.adapter),
                remedy="Give --model as lavic tune was given it, or another adapter.",
            )
        load_language_adapter(base.model, system.adapter).unload()
        base.model.requires_grad_(False)


def check_kind(system: System, store: ItemStore) -> None:
    """See that a store holds what the system's name says.

    Raises:
        InputError: it holds other visual tokens.
    """
    where = f"--{system.name}_store {store.folder}"
    if system.name == FULL_TOKENS and not store.all_image_tokens:
        remedy = "Make one with lavic embed --image_tokens all."
        raise InputError("the store holds five image tokens a picture, not all", where=where, remedy=remedy)
    if system.name == UNDISTILLED and store.all_image_tokens:
        problem = f"the store holds all image tokens, so it belongs to --{FULL_TOKENS}_store"
        raise InputError(problem, where=where, remedy="Make one with lavic embed and no --adapter.")
    if system.name == UNDISTILLED and store.about["adapter"] is not None:
        problem = "the store was made with a stage-1 adapter, so its visual tokens are distilled"
        raise InputError(problem, where=where, remedy="Make one with lavic embed and no --adapter.")


def check_tokens(system: System, store: ItemStore) -> None:
    """See that a store holds the visual tokens that the adapter learnt from.

    Raises:
        InputError: they were made by another model or stage-1 adapter.
    """
    if system.recommender is None:
        return
    different = what_differs(store.about, system.recommender.visual_tokens)
    if different:
        raise InputError(
            f"the store was made with {different}, and {system.adapter}/ was tuned on what that made",
            where=str(store.folder),
            remedy="Give the item store that lavic tune was given, or tune again on this one.",
        )


@contextmanager
def answering(base: BaseModel, system: System) -> Iterator[FiveTokenModel]:
    """The model with the system's adapter, which is taken off again."""
    if system.adapter is None:
        yield FiveTokenModel(base, Accelerations(frozen_start=False))
        return
    wrapped = load_language_adapter(base.model, system.adapter).to(base.model.device)
    try:
        yield FiveTokenModel(base, Accelerations(frozen_start=False))
    finally:
        # Layers that compute themselves in one go would outlive the adapter that they belong to.
        FiveTokenModel(base, Accelerations(frozen_start=False, lean_vision=False))
        wrapped.unload()
        base.model.requires_grad_(False)
