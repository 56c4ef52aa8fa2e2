"""``lavic distill``: from metadata and pictures to a vision adapter."""

from __future__ import annotations

import torch
from peft import PeftModel

from lavic.config import CONFIG_FILE, VERSIONS_FILE
from lavic.console import Console, Outcome
from lavic.distill.config import DistillSettings
from lavic.distill.criteria import Criterion, judge, met
from lavic.distill.evaluation import ValidationLoss
from lavic.distill.setup import (
    Data,
    check_inputs,
    collect_data,
    load_model,
    make_dataset,
    make_loop_settings,
    make_prefix,
    read_metadata,
)
from lavic.distill.task import ADAPTER_FOLDER, DistillTask
from lavic.distill.validate_only import run_validation
from lavic.files import FolderLock, prepare_output
from lavic.folders import LOCK_NAME
from lavic.formats import SkipLog
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, trainable_by_part
from lavic.model.load import BaseModel
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.checkpoints import CHECKPOINT_FILE, RunState, read_state, restore
from lavic.training.devices import choose_device, choose_precision, make_fabric
from lavic.training.failures import machine_failures
from lavic.training.identity import check_same_run, identity_of, names_mark, weights_mark
from lavic.training.loaders import Sample
from lavic.training.loop import Trainer
from lavic.training.run_log import EVENTS_FILE, RUN_LOG_NAMES, RunLog, read_rows
from lavic.training.sampler import steps_per_epoch

SKIPPED_FILE = "skipped.jsonl"
#: What a run writes into its folder; --overwrite deletes these and nothing else.
KNOWN_OUTPUTS = (
    ADAPTER_FOLDER,
    CHECKPOINT_FILE,
    *RUN_LOG_NAMES,
    "val_metrics_epoch_*.txt",
    SKIPPED_FILE,
    CONFIG_FILE,
    VERSIONS_FILE,
)
# Settings that may differ between a run and its resumption without changing its result. Data and prompts may
# lie elsewhere by now: their content is compared.
_FREE_TO_CHANGE = {
    "train_data",
    "val_data",
    "train_images_dir",
    "val_images_dir",
    "prompts",
    "num_workers",
    "checkpoint_every",
    "log_dir",
    "resume",
    "overwrite",
    "output_dir",
    "require_criteria",
    "max_val_loss",
    "max_val_perplexity",
    "adapter_size_mb",
    "validate_before_training",
    "skip_gpu_check",
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
        with FolderLock(settings.output_dir):
            state = _prepare(settings)
            identity = _identity(settings)
            if state is not None:
                check_same_run(state, identity, settings.output_dir, console.warn, whole=False)
            with SkipLog(settings.output_dir / SKIPPED_FILE, resume=state is not None) as skipped:
                if state is not None and state.finished:
                    return _finished_already(settings, console, skipped, state)
                return _train(settings, console, skipped, state, identity)


def _prepare(settings: DistillSettings) -> RunState | None:
    """Make the output folder ready; the state to resume from, if any."""
    folder = settings.output_dir
    skipped = folder / SKIPPED_FILE
    if skipped.is_file() and {path.name for path in folder.iterdir()} <= {SKIPPED_FILE, LOCK_NAME}:
        # A run that found nothing to train on: it left the list of what was wrong with the data, no more.
        skipped.unlink()
    state = read_state(folder) if folder.is_dir() and not settings.overwrite else None
    holds = ""
    if state is not None:
        holds = f"a run at step {state.step}" + (" (finished)" if state.finished else "")
    prepare_output(folder, resume=settings.resume, overwrite=settings.overwrite, known=KNOWN_OUTPUTS, holds=holds)
    return state if settings.resume else None


def _finished_already(settings: DistillSettings, console: Console, skipped: SkipLog, state: RunState) -> Outcome:
    """Say so; a run that was killed between its last checkpoint and its last line gets that line."""
    folder = settings.output_dir
    if not any(row["kind"] == "end" and row.get("status") == "finished" for row in read_rows(folder / EVENTS_FILE)):
        with RunLog(folder, settings.log_dir, resume_step=state.step, resume_rows=state.event_rows) as log:
            _log_end(log, state, skipped)
    console.info(f"The run in {folder}/ has finished already, at step {state.step}.")
    return Outcome(summary={"output_dir": str(folder), "step": state.step, "status": "finished"})


def _log_end(log: RunLog, state: RunState, skipped: SkipLog) -> None:
    if skipped.count:
        log.skipped(skipped.count, reasons=dict(skipped.by_reason))
    log.end("finished", best_step=state.best_step, best_loss=state.best_loss)


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
        best = _run_loop(settings, console, skipped, state, base, wrapped, lora, data, log, resumed=resumed)
        criteria = judge(
            settings.output_dir / ADAPTER_FOLDER,
            best,
            trainable_parameters=sum(parameter.numel() for parameter in lora_parameters(wrapped).values()),
            model_parameters=sum(parameter.numel() for parameter in base.model.parameters()),
            max_val_loss=settings.max_val_loss,
            max_val_perplexity=settings.max_val_perplexity,
            adapter_size_mb=settings.adapter_size_mb,
        )
        _print_criteria(criteria, console)
        _log_end(log, state, skipped)
    if skipped.count:
        console.warn(f"{skipped.count} rows or pictures were left out; {skipped.path} lists them.")
    return _outcome(settings, state, best, skipped, criteria)


def _with_size(sample: Sample) -> str:
    """A picture's name and size: reading all pictures only to compare them would take as long as an epoch."""
    try:
        return f"{sample.name} {sample.path.stat().st_size}"
    except OSError:  # gone since it was looked for
        return sample.name


def _run_loop(
    settings: DistillSettings,
    console: Console,
    skipped: SkipLog,
    state: RunState,
    base: BaseModel,
    wrapped: PeftModel,
    lora: LoraSettings,
    data: Data,
    log: RunLog,
    *,
    resumed: bool,
) -> ValidationLoss | None:
    """Set up the task and train it to its end; the validation of the best adapter."""
    device = choose_device(settings.device)
    fabric = make_fabric(device, choose_precision(settings.precision, device))
    parameters = lora_parameters(wrapped)
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    if resumed:
        restore(settings.output_dir, parameters, optimizer)
    model = FiveTokenModel(base)
    loop = make_loop_settings(settings, len(data.train))
    total = loop.total_steps(steps_per_epoch(len(data.train), settings.batch_size, settings.gradient_accumulation))
    with console.progress("Distilling", total - state.step) as bar:
        task = DistillTask(
            fabric=fabric,
            model=model,
            wrapped=wrapped,
            lora=lora,
            parameters=parameters,
            optimizer=optimizer,
            train=make_dataset(data.train, data.builder, base),
            valid=make_dataset(data.valid, data.builder, base),
            prefix=make_prefix(model, data.train),
            valid_prefix=make_prefix(model, data.valid),
            batch_size=settings.batch_size,
            accumulation=settings.gradient_accumulation,
            seed=settings.seed,
            workers=settings.num_workers,
            output_dir=settings.output_dir,
            base_name=base.name,
            skipped=skipped,
            log=log,
            console=console,
            bar=bar,
            best=None if state.best_result is None else ValidationLoss(**state.best_result),  # type: ignore[arg-type]
        )
        trainer = Trainer(fabric, task, loop, parameters, optimizer, state, notice=console.info)
        _announce(settings, console, log, base, wrapped, data, total, state, resumed=resumed)
        if settings.validate_before_training and not resumed:
            task.validate(0)
        trainer.run()
    return task.best


def _identity(settings: DistillSettings) -> dict[str, str]:
    """What must be the same for a resumed run, as far as it is known before the model is loaded."""
    device = choose_device(settings.device)
    # What `auto` means may change between two calls.
    resolved = {"device": device.type, "precision": choose_precision(settings.precision, device)}
    return identity_of(
        {**settings.model_dump(mode="json"), **resolved},
        free=_FREE_TO_CHANGE,
        files={
            "--train_data": settings.train_data,
            "--val_data": settings.val_data,
            "--prompts": settings.prompts,
        },
    )


def _announce(
    settings: DistillSettings,
    console: Console,
    log: RunLog,
    base: BaseModel,
    wrapped: PeftModel,
    data: Data,
    total: int,
    state: RunState,
    *,
    resumed: bool,
) -> None:
    """Say what is trained and what is frozen, and start the log."""
    parts = trainable_by_part(wrapped)
    trained = sum(parts.values())
    everything = sum(parameter.numel() for parameter in wrapped.parameters())
    for part, count in parts.items():
        console.info(f"{part:>20}: " + (f"{count:,} LoRA parameters trained" if count else "frozen"))
    console.info(f"{'in all':>20}: {trained:,} trained, {everything - trained:,} frozen")
    log_format = choose_precision(settings.precision, base.model.device)
    console.info(
        f"{len(data.train)} training and {len(data.valid)} validation samples; {total} optimizer steps of "
        f"{settings.batch_size} x {settings.gradient_accumulation} samples; {log_format} on {base.model.device}"
    )
    log.start(
        "distill",
        total_steps=total,
        settings=settings.model_dump(mode="json"),
        train_samples=len(data.train),
        val_samples=len(data.valid),
        trainable_parameters=trained,
    )
    if settings.warmup >= total:
        console.warn(f"--warmup {settings.warmup} is longer than the run, which never comes to its full rate.")
    if resumed:
        console.info(f"Resumed at step {state.step} of {total}")


def _print_criteria(criteria: list[Criterion], console: Console) -> None:
    words = {True: "yes", False: "NO", None: "not judged"}
    rows = [[criterion.name, criterion.expected, criterion.found, words[criterion.holds]] for criterion in criteria]
    console.table(rows, header=["criterion", "expected", "found", "holds"])
    for name, expected, found, holds in rows:
        console.log(f"criterion: {name}: expected {expected}, found {found}, holds: {holds}")
    if any(criterion.holds is None for criterion in criteria):
        console.info("Loss and perplexity are judged for models of a billion parameters and more.")


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
