"""From settings to what tuning and evaluation work with: model, catalogue, prompts, rows."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

from lavic.console import Console
from lavic.embed.config import EmbedSettings
from lavic.embed.run import make_store
from lavic.embed.store import ItemStore, check_store
from lavic.errors import InputError
from lavic.files import open_regular
from lavic.model.accelerations import Accelerations
from lavic.model.adapters import check_vision_adapter
from lavic.model.load import BaseModel
from lavic.model.recommendation import RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import load_prompts
from lavic.skipped import SkipLog
from lavic.training.base_model import check_model
from lavic.training.settings import Device, Precision
from lavic.tune.config import ConversationSettings, TuneSettings
from lavic.tune.conversations import Catalogue, category_file, conversations_of, read_titles
from lavic.tune.samples import AskedRow, TuneSample, asked_rows, tune_samples


@dataclass(frozen=True)
class Choosing:
    """What every prompt is made from."""

    base: BaseModel
    catalogue: Catalogue
    prompts: RecommendationPrompts


@dataclass(frozen=True)
class TuneData:
    """Samples to train on, and rows to validate with."""

    train: Rows[TuneSample]
    valid: Rows[AskedRow]

    @property
    def item_ids(self) -> set[str]:
        """Of all candidates."""
        lists = [*(sample.candidates for sample in self.train), *(row.candidates for row in self.valid)]
        return {candidate.item_id for candidates in lists for candidate in candidates}


def check_inputs(settings: TuneSettings) -> None:
    """See that what the flags name is there, before minutes are spent on loading a model.

    Raises:
        InputError: a file or the item store is not there, or cannot be made.
        ConfigError: the category, the prompts, the device, the number format or a short cut cannot be had.
        ModelError: the model is a folder that is not there, or not whole.
        AdapterError: the stage-1 adapter is none.
    """
    check_model(settings, compiles=settings.compile)
    check_conversations(settings, "train", "valid")


def check_conversations(settings: ConversationSettings, *splits: str) -> None:
    """The same for what tuning and evaluation share."""
    load_prompts(settings.prompts)
    for split in splits:
        category_file(settings, split)
    for path in (settings.item_meta_path, settings.val_data):
        if path is not None:
            open_regular(path).close()
    if settings.vision_adapter is not None:
        check_vision_adapter(settings.vision_adapter)
    if not settings.text_only:
        assert settings.item_store is not None, "the settings see to that"
        if not settings.item_store.exists() and settings.vision_adapter is None:
            raise InputError(
                "there is no item store",
                where=str(settings.item_store),
                remedy="Make it with lavic embed, name a stage-1 adapter with --vision_adapter, or give --text_only.",
            )


def open_store(
    settings: ConversationSettings, console: Console, *, model: str, device: Device, precision: Precision | None
) -> ItemStore | None:
    """The item store; made where it is not there; None where no picture is to be shown.

    Raises:
        InputError: it cannot be opened or made.
    """
    if settings.text_only:
        return None
    assert settings.item_store is not None, "the settings see to that"
    there = ItemStore(settings.item_store) if settings.item_store.exists() else None
    if there is not None and (not there.unfinished or settings.vision_adapter is None):
        if there.unfinished:
            console.warn(f"{settings.item_store}/ is not finished: what it lacks is shown without its picture.")
        return there
    console.info(f"The item store in {settings.item_store}/ is {'completed' if there else 'made'}.")
    make_store(embed_settings(settings, model=model, device=device, precision=precision), console)
    return ItemStore(settings.item_store)


def embed_settings(
    settings: ConversationSettings, *, model: str, device: Device, precision: Precision | None
) -> EmbedSettings:
    """Those that the item store is made with, where a command makes it itself."""
    assert settings.item_store is not None, "the settings see to that"
    return EmbedSettings(
        model=model,
        adapter=settings.vision_adapter,
        item_meta_path=settings.item_meta_path,
        val_data=settings.val_data,
        train_images_dir=settings.train_images_dir,
        val_images_dir=settings.val_images_dir,
        images_per_item=settings.images_per_item,
        output_dir=settings.item_store,
        device=device,
        precision=precision,
    )


def data_given(settings: ConversationSettings) -> dict[str, object]:
    """The flags of ``lavic embed`` for the same data, where they are not its defaults."""
    names = ("item_meta_path", "val_data", "train_images_dir", "val_images_dir", "images_per_item")
    fields = EmbedSettings.model_fields
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != fields[name].default}


def prepare(settings: ConversationSettings, base: BaseModel, store: ItemStore | None, skipped: SkipLog) -> Choosing:
    """Titles, visual tokens and prompts.

    Raises:
        InputError: the store was made by another model, adapter or with other views; a metadata file cannot be used.
        ConfigError: the prompts cannot be used.
    """
    if store is not None:
        where = str(settings.item_store)
        check_store(store, base, settings.vision_adapter, where=where, data=data_given(settings))
    builder = SequenceBuilder(base.tokenizer, load_prompts(settings.prompts), base.family.views)
    prompts = RecommendationPrompts(builder, settings.max_length)
    catalogue = Catalogue(read_titles(settings, skipped), store, skipped, settings.images_per_item)
    return Choosing(base, catalogue, prompts)


def collect(settings: TuneSettings, choosing: Choosing, skipped: SkipLog) -> TuneData:
    """Samples and validation rows.

    Raises:
        NothingLeftError: no sample, or no row, can be used.
    """
    train, valid = category_file(settings, "train"), category_file(settings, "valid")
    samples = tune_samples(
        conversations_of(train, settings.candidate_type, skipped),
        choosing.catalogue,
        choosing.prompts,
        path=train,
        skipped=skipped,
        seed=settings.seed,
        repeat_right_items=settings.repeat_right_items,
        without_choice=settings.published,
        max_samples=settings.max_samples,
    )
    return TuneData(samples, rows_of(valid, settings, choosing, skipped))


def rows_of(
    path: Path,
    settings: ConversationSettings,
    choosing: Choosing,
    skipped: SkipLog,
    *,
    max_rows: int | None = None,
) -> list[AskedRow]:
    """Rows of a file, to be answered as they are."""
    return asked_rows(
        conversations_of(path, settings.candidate_type, skipped),
        choosing.catalogue,
        choosing.prompts,
        path=path,
        skipped=skipped,
        max_rows=max_rows,
    )


def make_accelerations(settings: TuneSettings) -> Accelerations:
    """The model's short cuts while its language model is trained: nothing of it is constant."""
    return Accelerations(
        cls_only=True,
        prefix_cache=True,
        frozen_start=False,
        target_logits=settings.target_logits,
        answer_states=settings.answer_states,
        lean_vision=settings.lean_lora,
        lean_language=settings.lean_language,
        activation_checkpointing=settings.activation_checkpointing,
        compile=settings.compile,
    )
