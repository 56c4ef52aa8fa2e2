"""From settings to what a distillation run works with: samples, model parts, loop settings."""

from __future__ import annotations

from dataclasses import dataclass

from lavic.console import Console
from lavic.distill.config import DistillSettings
from lavic.distill.samples import collect_samples, require_samples
from lavic.formats import SkipLog, read_train_metadata, read_valid_metadata
from lavic.model.load import BaseModel, load_base
from lavic.model.prefix_cache import PrefixCache, shared_length
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import load_prompts
from lavic.training.devices import choose_device, choose_precision, weights_dtype
from lavic.training.loaders import MicroBatches, Sample
from lavic.training.loop import LoopSettings
from lavic.training.sampler import steps_per_epoch


@dataclass(frozen=True)
class Data:
    """Samples of both sets, and how sequences are built."""

    builder: SequenceBuilder
    train: list[Sample]
    valid: list[Sample]


def load_model(settings: DistillSettings, console: Console) -> BaseModel:
    """The checkpoint, on the device, in the run's number format."""
    console.info(f"Loading {settings.model} ...")
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    return load_base(settings.model, dtype=weights_dtype(precision), device=device)


def collect_data(settings: DistillSettings, base: BaseModel, skipped: SkipLog, *, train: bool = True) -> Data:
    """Read the metadata and look for the pictures."""
    builder = SequenceBuilder(base.tokenizer, load_prompts(settings.prompts), base.family.views)
    train_samples: list[Sample] = []
    if train:
        train_samples = collect_samples(
            read_train_metadata(settings.train_data, skipped),
            settings.train_images_dir,
            builder,
            skipped,
            max_length=settings.max_length,
            max_samples=settings.max_samples,
        )
        require_samples(train_samples, settings.train_data, settings.train_images_dir, skipped)
    valid_samples = collect_samples(
        read_valid_metadata(settings.val_data, skipped),
        settings.val_images_dir,
        builder,
        skipped,
        max_length=settings.max_length,
    )
    require_samples(valid_samples, settings.val_data, settings.val_images_dir, skipped)
    return Data(builder, train_samples, valid_samples)


def make_dataset(samples: list[Sample], builder: SequenceBuilder, base: BaseModel) -> MicroBatches:
    """The samples as a data set of micro-batches."""
    return MicroBatches(samples, builder, view_size=base.view_size, views=base.family.views)


def make_prefix(model: FiveTokenModel, data: Data) -> PrefixCache | None:
    """The cache of what all prompts start with; the language model is frozen in stage 1."""
    sequences = [sample.sequence for sample in (*data.train, *data.valid)]
    length = shared_length(sequences)
    if length < 2:
        return None
    return PrefixCache(
        model.llava.model.language_model, model.llava.get_input_embeddings(), sequences[0].input_ids[:length]
    )


def make_loop_settings(settings: DistillSettings, samples: int) -> LoopSettings:
    """The loop's settings, with intervals in optimizer steps."""
    per_epoch = steps_per_epoch(samples, settings.batch_size, settings.gradient_accumulation)
    validation, checkpoint = settings.validation_interval, settings.checkpoint_interval
    every = validation.amount * (per_epoch if validation.unit == "epochs" else 1)
    return LoopSettings(
        lr=settings.lr,
        gradient_clip=settings.gradient_clip,
        warmup=settings.warmup,
        schedule=settings.schedule,
        seed=settings.seed,
        epochs=settings.num_epochs,
        max_steps=settings.max_steps,
        validate_every=max(1, round(every)) if settings.val_every else 0,
        checkpoint_steps=int(checkpoint.amount) if checkpoint.unit == "steps" else 0,
        checkpoint_minutes=checkpoint.amount if checkpoint.unit == "minutes" else 0.0,
        patience=settings.early_stopping,
    )
