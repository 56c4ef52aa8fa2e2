"""``lavic distill``: from metadata and pictures to a vision adapter."""

from __future__ import annotations

from dataclasses import replace

from lavic.config import CONFIG_FILE
from lavic.console import Console, Outcome
from lavic.distill.config import DistillSettings
from lavic.distill.criteria import Criterion, exit_code, judge_adapter, log_criteria, met, print_criteria
from lavic.distill.dry_run import run_dry
from lavic.distill.evaluation import ValidationLoss
from lavic.distill.samples import pictures_identity, pictures_there
from lavic.distill.setup import check_inputs, collect_data, open_cache, read_metadata
from lavic.distill.task import ADAPTER_FOLDER
from lavic.distill.teacher import store_mark, teacher_folder
from lavic.distill.train import train_to_end
from lavic.distill.validate_only import run_validation
from lavic.model.adapters import attach_vision_lora
from lavic.training.base_model import load_model
from lavic.training.failures import machine_failures
from lavic.training.runs import TrainingRun, open_run, run_identity
from lavic.training.session import Trainee, with_lora

# Data and the teacher's probabilities may lie elsewhere by now: their content is compared.
_FREE_TO_CHANGE = {
    "train_data",
    "val_data",
    "train_images_dir",
    "val_images_dir",
    "logits_dir",
    "num_workers",
    "require_criteria",
    "max_val_loss",
    "max_val_perplexity",
    "adapter_size_mb",
    "dry_run",
    "picture_cache",
}


def run(settings: DistillSettings, console: Console) -> Outcome:
    """Train (or only validate) and print what came out.

    Raises:
        LavicError: see ``lavic.errors``; the last good checkpoint stays.
    """
    check_inputs(settings)
    with machine_failures():
        if settings.validate_only:
            return run_validation(settings, console)
        if settings.dry_run is not None:
            return run_dry(settings, console)
        with open_run(settings, console, known_identity, adapter_folder=ADAPTER_FOLDER) as opened:
            return _finished_already(opened) if opened.state.finished else _train(opened)


def _train(run: TrainingRun[DistillSettings]) -> Outcome:
    settings, skipped = run.settings, run.skipped
    described = read_metadata(settings, skipped)
    base = load_model(settings, run.console)
    data = collect_data(settings, base, described, skipped)
    cache = open_cache(settings, base, data)  # it may be refused: so before `begin`, which deletes
    run.begin(base, pictures_identity(pictures_there((*data.train, *data.valid))))
    student = with_lora(settings, base, attach_vision_lora)
    with run.logged("rows or pictures") as log:
        best = train_to_end(run, student, data, log, cache)
        criteria = _judged(settings, student, best)
        log_criteria(criteria, run.console)
    print_criteria(criteria, run.console)
    return _outcome(run, best, criteria)


def _finished_already(run: TrainingRun[DistillSettings]) -> Outcome:
    """Say so; the criteria are judged again if the exit code is to tell of them."""
    outcome, settings = run.finished_already(), run.settings
    if not settings.require_criteria:
        return outcome
    student = with_lora(settings, load_model(settings, run.console), attach_vision_lora)
    criteria = _judged(settings, student, run.best_so_far(ValidationLoss))
    print_criteria(criteria, run.console)
    summary = {**outcome.summary, "criteria_met": met(criteria)}
    return replace(outcome, summary=summary, exit_code=exit_code(settings, criteria))


def known_identity(settings: DistillSettings) -> dict[str, str]:
    """What must be the same for a resumed run, as far as it is known before the model is loaded."""
    store = {"content of --logits_dir": store_mark(teacher_folder(settings))} if settings.has_teacher else {}
    return store | run_identity(
        settings,
        free=_FREE_TO_CHANGE,
        files={
            "--train_data": settings.train_data,
            "--val_data": settings.val_data,
            "--prompts": settings.prompts,
        },
    )


def _judged(settings: DistillSettings, student: Trainee, best: ValidationLoss | None) -> list[Criterion]:
    folder = settings.output_dir / ADAPTER_FOLDER
    return judge_adapter(settings, folder, best, student.base.model, trainable_parameters=student.trained)


def _outcome(run: TrainingRun[DistillSettings], best: ValidationLoss | None, criteria: list[Criterion]) -> Outcome:
    settings = run.settings
    adapter = settings.output_dir / ADAPTER_FOLDER
    summary = {
        "output_dir": str(settings.output_dir),
        "adapter": str(adapter),
        "steps": run.state.step,
        "best_step": run.state.best_step,
        "val_loss": best.loss_without_eos if best else None,
        "val_perplexity": best.perplexity_without_eos if best else None,
        "val_loss_with_eos": best.loss if best else None,
        "val_perplexity_with_eos": best.perplexity if best else None,
        **run.skipped.summary(),
        "criteria_met": met(criteria),
    }
    return Outcome(
        summary=summary,
        exit_code=exit_code(settings, criteria),
        next_step=f"Check it again with: lavic distill --config {settings.output_dir / CONFIG_FILE} --validate_only "
        f"--adapter {adapter}",
    )
