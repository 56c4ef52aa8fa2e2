"""``lavic check``: in seconds, what would go wrong in a run of hours; nothing is written, nothing downloaded."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lavic.check import machine, output
from lavic.check.config import CheckSettings
from lavic.check.data import counts_of, judge, leak
from lavic.check.dataset import DataSet, Listed, Place, look_at
from lavic.check.findings import Counts, Finding, Status, guarded, ok, plural, warning, worst
from lavic.check.model import ModelFacts, look_at_model
from lavic.config import field_extra
from lavic.console import Console, Outcome
from lavic.distill.config import DistillSettings
from lavic.distill.teacher import TeacherStore, open_teacher
from lavic.errors import ConfigError
from lavic.formats import read_train_metadata, read_valid_metadata
from lavic.model.adapters import read_lora_settings
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS, load_prompts
from lavic.training.runs import loop_settings
from lavic.training.sampler import steps_per_epoch


@dataclass
class Report:
    """What has been found so far; each check adds its rows."""

    settings: CheckSettings
    console: Console
    findings: list[Finding] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)
    facts: ModelFacts | None = None
    train: DataSet | None = None
    valid: DataSet | None = None
    teacher: TeacherStore | None = None

    def make(self, name: str, check: Callable[[], Finding | list[Finding]]) -> None:
        """Run one check and keep its rows."""
        self.findings += guarded(name, check)


def run(settings: CheckSettings, console: Console) -> Outcome:
    """Check everything that the planned run depends on; exit code 1 says no go."""
    report = Report(settings, console)
    report.make("model", lambda: _model(report))
    builder = _builder(report)
    if settings.has_teacher and not settings.validate_only:
        report.make("teacher's probabilities", lambda: _teacher(report, builder))
    if not settings.validate_only:
        report.make("training data", lambda: _data_set(report, _train_place(settings), builder))
    report.make("validation data", lambda: _data_set(report, _valid_place(settings), builder))
    train, valid = report.train, report.valid
    if train is not None and valid is not None and train.read and valid.read:
        report.make("training and validation", lambda: leak(train, valid))
    report.make("device", lambda: machine.device(settings, report.facts))
    report.make("memory (estimate)", lambda: _memory(report))
    if settings.quantize == "nf4" or settings.compile:
        report.make("short cuts", lambda: machine.short_cuts(settings))
    report.make("workers", lambda: machine.workers(settings, report.facts))
    if settings.validate_only:
        if settings.adapter is not None:
            report.make("adapter", lambda: _adapter(report))
    else:
        if train is not None and train.samples:
            report.make("run", lambda: _plan(report))
        report.make("disk", lambda: _disk(report))
        if settings.picture_cache is not None and report.facts is not None:
            report.make("picture cache", lambda: _picture_cache(report))
        report.make("output folder", lambda: output.folder(settings.planned()))
        report.make("log folder", lambda: output.log_folder(settings))
    report.make("versions", machine.library_versions)
    return _outcome(report)


def _model(report: Report) -> list[Finding]:
    findings, report.facts = look_at_model(report.settings.model)
    if report.facts is not None:
        report.counts["model"] = {
            "parameters": report.facts.parameters,
            "trainable_parameters": report.facts.trainable(report.settings.lora_r),
            "file_bytes": report.facts.file_bytes,
        }
    return findings


def _builder(report: Report) -> SequenceBuilder | None:
    """How sequences are built; None without a tokenizer. A wrong prompt file is a row of its own."""
    prompts = DEFAULT_PROMPTS
    try:
        prompts = load_prompts(report.settings.prompts)
        if report.settings.prompts is not None:
            report.findings.append(ok("prompts", str(report.settings.prompts)))
    except ConfigError as error:
        reason = error
        report.make("prompts", lambda: _raise(reason))
    if report.facts is None:
        return None
    return SequenceBuilder(report.facts.base.tokenizer, prompts, report.facts.base.family.views)


def _teacher(report: Report, builder: SequenceBuilder | None) -> Finding:
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


def _raise(error: ConfigError) -> Finding:
    raise error


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


def _data_set(report: Report, place: Place, builder: SequenceBuilder | None) -> list[Finding]:
    settings, skipped = report.settings, Listed()
    training = place.part == "training"
    read = read_train_metadata if training else read_valid_metadata
    found = look_at(
        place,
        read(place.metadata, skipped),
        skipped,
        builder,
        report.console,
        max_length=settings.max_length,
        seed=settings.seed,
        thorough=settings.thorough,
        teacher=report.teacher if training else None,
    )
    report.counts["train" if training else "valid"] = counts_of(found)
    if training:
        report.train = found
    else:
        report.valid = found
    return judge(found, max_left_out=settings.max_left_out, max_length=settings.max_length)


def _memory(report: Report) -> Finding:
    finding, need = machine.memory(report.settings, report.facts, report.train or report.valid)
    if need is not None:
        report.counts["memory_estimate"] = {
            "device_bytes": int(need.device),
            "weights_bytes": int(need.weights),
            "lora_and_optimizer_bytes": int(need.lora),
            "activation_bytes": int(need.activations),
        }
    return finding


def _steps(report: Report) -> int:
    """Optimizer steps of the run, 0 if there is nothing to train on."""
    settings, samples = report.settings, len(report.train.samples) if report.train is not None else 0
    if not samples:
        return 0
    loop = loop_settings(settings, samples)
    return loop.total_steps(steps_per_epoch(samples, settings.batch_size, settings.gradient_accumulation))


def _plan(report: Report) -> Finding:
    settings, steps = report.settings, _steps(report)
    report.counts["steps"] = steps
    found = (
        f"{plural(steps, 'step')} of {settings.batch_size} x {settings.gradient_accumulation} samples, "
        f"{plural(settings.num_epochs, 'epoch')}"
    )
    if steps and settings.warmup >= steps:
        remedy = f"--warmup {settings.warmup} is longer than the run: choose a smaller one."
        return warning("run", found, remedy=remedy)
    return ok("run", found)


def _disk(report: Report) -> Finding:
    finding, report.counts["disk"] = output.disk(report.settings, report.facts, _steps(report))
    return finding


def _picture_cache(report: Report) -> Finding:
    assert report.facts is not None, "called where there is a model"
    sets = [each for each in (report.train, report.valid) if each is not None]
    return output.picture_cache(report.settings, report.facts, sum(len(each.samples) for each in sets))


def _adapter(report: Report) -> Finding:
    folder = report.settings.adapter
    assert folder is not None, "called where there is one"
    lora = read_lora_settings(folder)
    return ok("adapter", f"{folder}: LoRA of rank {lora.r}, alpha {lora.alpha}")


def _outcome(report: Report) -> Outcome:
    status, console = worst(report.findings), report.console
    rows: list[list[str]] = []
    for finding in report.findings:
        for number, line in enumerate(finding.found):
            rows.append([finding.name, finding.status.word, line] if number == 0 else ["", "", line])
    console.table(rows, header=["check", "result", "found"])
    problems = [finding for finding in report.findings if finding.remedy]
    for finding in sorted(problems, key=lambda each: -each.status):
        console.print(f"{finding.status.word}: {finding.name}. {finding.remedy}")
    go = status is not Status.NO_GO
    stops = sum(finding.status is Status.NO_GO for finding in report.findings)
    warnings = sum(finding.status is Status.WARNING for finding in report.findings)
    console.print(
        (f"GO, with {plural(warnings, 'warning')}." if warnings else "GO.")
        if go
        else f"NO GO: {plural(stops, 'check')} of {len(report.findings)}. Nothing was written."
    )
    summary = {
        "go": go,
        "no_go": stops,
        "warnings": warnings,
        "checks": [finding.as_json() for finding in report.findings],
        **report.counts,
    }
    next_step = f"Next: lavic distill {command_flags(report.settings)}".rstrip() if go else ""
    return Outcome(summary, exit_code=0 if go else 1, next_step=next_step, printed=True)


def command_flags(settings: DistillSettings) -> str:
    """The flags of the run that was checked: those that are not at their defaults."""
    words: list[str] = []
    for name, described in DistillSettings.ordered_fields().items():
        value: Any = getattr(settings, name)
        if value == described.default or field_extra(described, "hidden"):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", "none" if value is None else str(value)]
    return shlex.join(words)
