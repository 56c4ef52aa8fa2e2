"""``lavic distill``: from metadata and pictures to a vision adapter."""

from __future__ import annotations

import torch
from peft import PeftModel

from lavic.console import Console, Outcome
from lavic.distill.config import DistillSettings
from lavic.distill.criteria import Criterion, judge, met
from lavic.distill.evaluation import ValidationLoss
from lavic.distill.setup import (
    Data,
    collect_data,
    load_model,
    make_dataset,
    make_loop_settings,
    make_prefix,
)
from lavic.distill.task import ADAPTER_FOLDER, DistillTask
from lavic.distill.validate_only import run_validation
from lavic.errors import ConfigError
from lavic.files import FolderLock, prepare_output
from lavic.formats import SkipLog
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, trainable_by_part
from lavic.model.load import BaseModel
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.checkpoints import CHECKPOINT_FILE, RunState, read_state, restore
from lavic.training.devices import choose_device, choose_precision, make_fabric
from lavic.training.identity import check_same_run, identity_of
from lavic.training.loop import Trainer
from lavic.training.run_log import RUN_LOG_NAMES, RunLog
from lavic.training.sampler import steps_per_epoch

#: What a run writes into its folder; --overwrite deletes these and nothing else.
KNOWN_OUTPUTS = (
    ADAPTER_FOLDER,
    CHECKPOINT_FILE,
    *RUN_LOG_NAMES,
    "val_metrics_epoch_*.txt",
    "skipped.jsonl",
    "config.yaml",
    "versions.json",
)
# Settings that may differ between a run and its resumption without changing its result.
_FREE_TO_CHANGE = {
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
    for path in (settings.val_data,) if settings.validate_only else (settings.train_data, settings.val_data):
        if not path.exists():
            raise ConfigError("there is no such file", where=str(path), remedy=_DATA_REMEDY)
    if settings.validate_only:
        return run_validation(settings, console)
    with FolderLock(settings.output_dir):
        state = _prepare(settings)
        if state is not None and state.finished:
            console.info(f"The run in {settings.output_dir}/ has finished already, at step {state.step}.")
            return Outcome(summary={"output_dir": str(settings.output_dir), "step": state.step, "status": "finished"})
        with SkipLog(settings.output_dir / "skipped.jsonl", resume=state is not None) as skipped:
            return _train(settings, console, skipped, state)


_DATA_REMEDY = (
    "Give --train_data and --val_data, or make a small world to try: lavic toyshop --output-dir toyshop --items 600."
)


def _prepare(settings: DistillSettings) -> RunState | None:
    """Make the output folder ready; the state to resume from, if any."""
    folder = settings.output_dir
    state = read_state(folder) if folder.is_dir() and not settings.overwrite else None
    holds = ""
    if state is not None:
        holds = f"a run at step {state.step}" + (" (finished)" if state.finished else "")
    prepare_output(folder, resume=settings.resume, overwrite=settings.overwrite, known=KNOWN_OUTPUTS, holds=holds)
    return state if settings.resume else None


def _train(settings: DistillSettings, console: Console, skipped: SkipLog, state: RunState | None) -> Outcome:
    base = load_model(settings, console)
    data = collect_data(settings, base, skipped)
    identity = _identity(settings, data)
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
        if skipped.count:
            log.skipped(skipped.count, reasons=dict(skipped.by_reason))
        log.end("finished", best_step=state.best_step, best_loss=state.best_loss)
    return _outcome(settings, state, best, skipped, criteria)


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
            prefix=make_prefix(model, data),
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


def _identity(settings: DistillSettings, data: Data) -> dict[str, str]:
    """What must be the same for a resumed run."""
    return identity_of(
        settings.model_dump(mode="json"),
        free=_FREE_TO_CHANGE,
        files={"--train_data": settings.train_data, "--val_data": settings.val_data},
        samples=[sample.name for sample in (*data.train, *data.valid)],
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
        next_step=f"Check it again with: lavic distill --validate_only --adapter {adapter} --model {settings.model} "
        f"--val_data {settings.val_data} --val_images_dir {settings.val_images_dir}",
    )
