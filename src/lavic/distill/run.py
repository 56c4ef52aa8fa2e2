"""``lavic distill``: from metadata and pictures to a vision adapter."""

from __future__ import annotations

import torch

from lavic.config import CONFIG_FILE, VERSIONS_FILE
from lavic.console import Console, Outcome
from lavic.distill.config import DistillSettings
from lavic.distill.criteria import Criterion, judge, met, print_criteria
from lavic.distill.dry_run import run_dry
from lavic.distill.evaluation import ValidationLoss
from lavic.distill.setup import (
    check_inputs,
    collect_data,
    load_model,
    read_metadata,
)
from lavic.distill.task import ADAPTER_FOLDER
from lavic.distill.teacher import store_mark, teacher_folder
from lavic.distill.train import train_to_end
from lavic.distill.validate_only import run_validation
from lavic.files import FolderLock
from lavic.formats import SkipLog
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters
from lavic.training.checkpoints import CHECKPOINT_FILE, RunState
from lavic.training.failures import machine_failures
from lavic.training.identity import check_same_run, names_mark, weights_mark
from lavic.training.loaders import Sample
from lavic.training.run_log import RUN_LOG_NAMES, SKIPPED_FILE, RunLog
from lavic.training.runs import finished_already, log_end, prepare_run, run_identity

#: What a run writes into its folder; --overwrite deletes these and nothing else.
KNOWN_OUTPUTS = (
    CHECKPOINT_FILE,
    ADAPTER_FOLDER,
    *RUN_LOG_NAMES,
    "val_metrics_epoch_*.txt",
    SKIPPED_FILE,
    CONFIG_FILE,
    VERSIONS_FILE,
)
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
        with FolderLock(settings.output_dir):
            state = prepare_run(settings, KNOWN_OUTPUTS)
            identity = known_identity(settings)
            if state is not None:
                check_same_run(state, identity, settings.output_dir, console.warn, whole=False)
            with SkipLog(settings.output_dir / SKIPPED_FILE, resume=state is not None) as skipped:
                if state is not None and state.finished:
                    return finished_already(settings, console, skipped, state)
                return _train(settings, console, skipped, state, identity)


def _train(
    settings: DistillSettings, console: Console, skipped: SkipLog, state: RunState | None, identity: dict[str, str]
) -> Outcome:
    described = read_metadata(settings, skipped)
    base = load_model(settings, console)
    data = collect_data(settings, base, described, skipped)
    identity |= {
        "content of --model": weights_mark(base.model),
        "pictures that are there": names_mark(map(_with_size, (*data.train, *data.valid))),
    }
    resumed = state is not None
    state = state or RunState(identity=identity, threads=torch.get_num_threads())
    check_same_run(state, identity, settings.output_dir, console.warn)
    settings.save(settings.output_dir)
    lora = LoraSettings(settings.lora_r, settings.lora_alpha, settings.lora_dropout)
    wrapped = attach_vision_lora(base.model, lora, seed=settings.seed)
    wrapped.to(base.model.device)
    with RunLog(
        settings.output_dir,
        settings.log_dir,
        console=console,
        resume_step=state.step if resumed else None,
        resume_rows=state.event_rows if resumed else None,
    ) as log:
        best = train_to_end(settings, console, skipped, state, base, wrapped, lora, data, log, resumed=resumed)
        criteria = judge(
            settings.output_dir / ADAPTER_FOLDER,
            best,
            trainable_parameters=sum(parameter.numel() for parameter in lora_parameters(wrapped).values()),
            model_parameters=sum(parameter.numel() for parameter in base.model.parameters()),
            max_val_loss=settings.max_val_loss,
            max_val_perplexity=settings.max_val_perplexity,
            adapter_size_mb=settings.adapter_size_mb,
        )
        print_criteria(criteria, console)
        log_end(log, state, skipped)
    if skipped.count:
        console.warn(f"{skipped.count} rows or pictures were left out; {skipped.path} lists them.")
    return _outcome(settings, state, best, skipped, criteria)


def _with_size(sample: Sample) -> str:
    """A picture's name and size: reading all pictures only to compare them would take as long as an epoch."""
    try:
        return f"{sample.name} {sample.path.stat().st_size}"
    except OSError:  # gone since it was looked for
        return sample.name


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


def _outcome(
    settings: DistillSettings,
    state: RunState,
    best: ValidationLoss | None,
    skipped: SkipLog,
    criteria: list[Criterion],
) -> Outcome:
    adapter = settings.output_dir / ADAPTER_FOLDER
    summary = {
        "output_dir": str(settings.output_dir),
        "adapter": str(adapter),
        "steps": state.step,
        "best_step": state.best_step,
        "val_loss": best.loss_without_eos if best else None,
        "val_perplexity": best.perplexity_without_eos if best else None,
        "val_loss_with_eos": best.loss if best else None,
        "val_perplexity_with_eos": best.perplexity if best else None,
        **skipped.summary(),
        "criteria_met": met(criteria),
    }
    return Outcome(
        summary=summary,
        exit_code=1 if settings.require_criteria and not met(criteria) else 0,
        next_step=f"Check it again with: lavic distill --config {settings.output_dir / CONFIG_FILE} --validate_only "
        f"--adapter {adapter}",
    )
