"""``lavic check``: in seconds, what would go wrong in a run of hours; nothing is written, nothing downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lavic.check import machine, output
from lavic.check.config import CheckSettings
from lavic.check.data import counts_of, judge, leak
from lavic.check.dataset import DataSet, Listed, Place, look_at_metadata, look_into_pictures
from lavic.check.findings import Finding, ok, plural, warning
from lavic.check.memory import estimate
from lavic.check.report import Report, command_line
from lavic.console import Console, Outcome
from lavic.distill.run import known_identity
from lavic.distill.samples import pictures_identity
from lavic.distill.teacher import TeacherStore, open_teacher
from lavic.formats import read_train_metadata, read_valid_metadata
from lavic.model.adapters import read_lora_settings
from lavic.model.sequences import SequenceBuilder


@dataclass(kw_only=True)
class DistillReport(Report):
    """The rows of stage 1, and the data sets that they speak of."""

    settings: CheckSettings
    train: DataSet | None = None
    valid: DataSet | None = None
    teacher: TeacherStore | None = None


def run(settings: CheckSettings, console: Console) -> Outcome:
    """Check everything that the planned run depends on; exit code 1 says no go."""
    report = DistillReport(settings=settings, console=console)
    report.look_at_model(settings.model, lambda facts: facts.trainable(settings.lora_r))
    builder = report.builder(settings.prompts)
    if settings.has_teacher and not settings.validate_only:
        report.make("teacher's probabilities", lambda: _teacher(report, builder))
    if not settings.validate_only:
        report.make("training data", lambda: _data_set(report, _train_place(settings), builder))
    report.make("validation data", lambda: _data_set(report, _valid_place(settings), builder))
    train, valid = report.train, report.valid
    if train is not None and valid is not None and train.read and valid.read:
        report.make("training and validation", lambda: leak(train, valid))
    report.make("device", lambda: machine.device(settings, report.facts))
    _memory(report)
    if settings.quantize == "nf4" or settings.compile:
        report.make("short cuts", lambda: machine.short_cuts(settings))
    report.make("workers", lambda: machine.workers(settings, report.facts))
    if settings.validate_only:
        if settings.adapter is not None:
            report.make("adapter", lambda: _adapter(report))
    else:
        if train is not None and train.samples:
            report.plan(settings, len(train.samples))
        report.disk(settings)
        report.make("output folder", lambda: output.folder(settings.planned(), lambda _: _identity(report)))
        report.make("log folder", lambda: output.log_folder(settings))
    if settings.picture_cache is not None and report.facts is not None:
        report.make("picture cache", lambda: _picture_cache(report))
    report.make("versions", machine.library_versions)
    return report.outcome(command_line("lavic distill", settings.planned()))


def _identity(report: DistillReport) -> dict[str, str]:
    """What the run compares with the one that it would go on with, but for the model's weights."""
    sets = [each for each in (report.train, report.valid) if each is not None and each.tokenised and not each.failure]
    pictures = pictures_identity([name for each in sets for name in each.there]) if len(sets) == 2 else {}
    return known_identity(report.settings.planned()) | pictures


def _teacher(report: DistillReport, builder: SequenceBuilder | None) -> Finding:
    """The store that the run will learn from; which samples it lacks is found with the training data.

    Raises:
        InputError: it cannot be used.
    """
    name, store = "teacher's probabilities", open_teacher(report.settings)
    assert store is not None, "called for an objective with a teacher"
    if report.facts is not None:
        store.check_vocabulary(int(report.facts.base.model.lm_head.weight.shape[0]))
    report.teacher = store
    report.counts["teacher"] = {"descriptions": len(store), "k": store.k}
    found = f"{store.folder}: {plural(len(store), 'description')}, the {store.k} likeliest tokens at each place"
    if builder is not None and store.has_other_prompt(builder.prompts):
        remedy = "Run lavic describe --top_logits with the same --prompts, or take them as they are."
        return warning(name, found, "made with another prompt than the run's", remedy=remedy)
    return ok(name, found)


def _train_place(settings: CheckSettings) -> Place:
    return Place(
        "training",
        settings.train_data,
        settings.train_images_dir,
        "--train_data",
        "--train_images_dir",
        settings.max_samples,
    )


def _valid_place(settings: CheckSettings) -> Place:
    return Place("validation", settings.val_data, settings.val_images_dir, "--val_data", "--val_images_dir")


def _data_set(report: DistillReport, place: Place, builder: SequenceBuilder | None) -> list[Finding]:
    settings, skipped = report.settings, Listed()
    training = place.part == "training"
    read = read_train_metadata if training else read_valid_metadata
    found = look_at_metadata(
        place,
        read(place.metadata, skipped),
        skipped,
        builder,
        report.console,
        max_length=settings.max_length,
        teacher=report.teacher if training else None,
    )
    look_into_pictures(found, report.console, seed=settings.seed, thorough=settings.thorough)
    report.counts["train" if training else "valid"] = counts_of(found)
    if training:
        report.train = found
    else:
        report.valid = found
    return judge(found, max_left_out=settings.max_left_out, max_length=settings.max_length)


def _memory(report: DistillReport) -> None:
    settings, facts = report.settings, report.facts
    longest = _longest(settings, report.train or report.valid)
    need = None if facts is None else partial(estimate, settings, facts, longest=longest)
    report.memory(settings, need, measured_by="--dry_run 20")


def _longest(settings: CheckSettings, data: DataSet | None) -> int:
    """Tokens with gradient of the longest sample; as many as there may be where they are not known."""
    sequences = [sample.sequence for sample in data.samples] if data is not None and data.tokenised else []
    if settings.frozen_start:
        return max((sequence.tokens_from_image_on for sequence in sequences), default=settings.max_length)
    return max((len(sequence.input_ids) for sequence in sequences), default=settings.max_length)


def _picture_cache(report: DistillReport) -> Finding:
    assert report.facts is not None, "called where there is a model"
    sets = [each for each in (report.train, report.valid) if each is not None]
    # The run counts broken pictures too: it has not looked into them.
    paths = [path for each in sets for path in (*(sample.path for sample in each.samples), *each.pictures.broken)]
    return output.picture_cache(report.settings, report.facts, paths)


def _adapter(report: DistillReport) -> Finding:
    folder = report.settings.adapter
    assert folder is not None, "called where there is one"
    lora = read_lora_settings(folder)
    return ok("adapter", f"{folder}: LoRA of rank {lora.r}, alpha {lora.alpha}")
