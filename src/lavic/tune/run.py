"""``lavic tune``: from conversations, candidates and the item store to a language-model adapter (stage 2)."""

from __future__ import annotations

from dataclasses import asdict

import torch
from peft import PeftModel

from lavic.config import CONFIG_FILE, VERSIONS_FILE
from lavic.console import Console, Outcome
from lavic.files import FolderLock
from lavic.model.adapters import LoraSettings, attach_language_lora, lora_parameters
from lavic.model.load import BaseModel
from lavic.model.visual_tokens import FiveTokenModel
from lavic.skipped import SkipLog
from lavic.training.checkpoints import CHECKPOINT_FILE, RunState, restore
from lavic.training.devices import choose_device, choose_precision, make_fabric
from lavic.training.failures import machine_failures
from lavic.training.identity import check_same_run, weights_mark
from lavic.training.loop import Trainer
from lavic.training.run_log import RUN_LOG_NAMES, SKIPPED_FILE, RunLog
from lavic.training.runs import finished_already, log_end, loop_settings, prepare_run, run_identity
from lavic.training.sampler import steps_per_epoch
from lavic.tune.card import Recommender, made_by
from lavic.tune.config import TuneSettings
from lavic.tune.conversations import category_file
from lavic.tune.scoring import ChoiceQuality
from lavic.tune.setup import (
    Choosing,
    TuneData,
    check_inputs,
    collect,
    load_model,
    make_accelerations,
    open_store,
    prepare,
)
from lavic.tune.task import ADAPTER_FOLDER, TuneTask

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
# Data may lie elsewhere by now: their content is compared.
_FREE_TO_CHANGE = {
    "conversations",
    "category",
    "item_meta_path",
    "val_data",
    "item_store",
    "vision_adapter",
    "train_images_dir",
    "val_images_dir",
}


def run(settings: TuneSettings, console: Console) -> Outcome:
    """Train and print what came out.

    Raises:
        LavicError: see ``lavic.errors``; the last good checkpoint stays.
    """
    check_inputs(settings)
    with machine_failures(), FolderLock(settings.output_dir):
        state = prepare_run(settings, KNOWN_OUTPUTS)
        identity = _known_identity(settings)
        if state is not None:
            check_same_run(state, identity, settings.output_dir, console.warn, whole=False)
        with SkipLog(settings.output_dir / SKIPPED_FILE, resume=state is not None) as skipped:
            if state is not None and state.finished:
                return finished_already(settings, console, skipped, state)
            return _tune(settings, console, skipped, state, identity)


def _known_identity(settings: TuneSettings) -> dict[str, str]:
    return run_identity(
        settings,
        free=_FREE_TO_CHANGE,
        files={
            "train.jsonl": category_file(settings, "train"),
            "valid.jsonl": category_file(settings, "valid"),
            "--item_meta_path": settings.item_meta_path,
            "--val_data": settings.val_data,
            "--prompts": settings.prompts,
        },
    )


def _tune(
    settings: TuneSettings, console: Console, skipped: SkipLog, state: RunState | None, identity: dict[str, str]
) -> Outcome:
    store = open_store(settings, console, model=settings.model, device=settings.device, precision=settings.precision)
    base = load_model(settings, console)
    choosing = prepare(settings, base, store, skipped)
    data = collect(settings, choosing, skipped)
    identity |= {
        "content of --model": weights_mark(base.model),
        "content of --item_store": "" if store is None else store.mark,
    }
    resumed = state is not None
    state = state or RunState(identity=identity, threads=torch.get_num_threads())
    check_same_run(state, identity, settings.output_dir, console.warn)
    settings.save(settings.output_dir)
    lora = LoraSettings(settings.lora_r, settings.lora_alpha, settings.lora_dropout)
    wrapped = attach_language_lora(base.model, lora, seed=settings.seed, lm_head=settings.lm_head)
    wrapped.to(base.model.device)
    with RunLog(
        settings.output_dir,
        settings.log_dir,
        console=console,
        resume_step=state.step if resumed else None,
        resume_rows=state.event_rows if resumed else None,
    ) as log:
        best = _train_to_end(settings, console, skipped, state, choosing, data, wrapped, lora, log, resumed=resumed)
        log_end(log, state, skipped)
    if skipped.count:
        console.warn(f"{skipped.count} rows were left out; {skipped.path} lists them.")
    return _outcome(settings, state, best, skipped)


def _train_to_end(
    settings: TuneSettings,
    console: Console,
    skipped: SkipLog,
    state: RunState,
    choosing: Choosing,
    data: TuneData,
    wrapped: PeftModel,
    lora: LoraSettings,
    log: RunLog,
    *,
    resumed: bool,
) -> ChoiceQuality | None:
    """Set up the task and train it to its end; the validation of the best adapter."""
    device = choose_device(settings.device)
    fabric = make_fabric(device, choose_precision(settings.precision, device))
    parameters = lora_parameters(wrapped)
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    if resumed:
        restore(settings.output_dir, parameters, optimizer)
    loop = loop_settings(settings, len(data.train))
    total = loop.total_steps(steps_per_epoch(len(data.train), settings.batch_size, settings.gradient_accumulation))
    with console.progress("Tuning", total - state.step) as bar:
        task = TuneTask(
            fabric=fabric,
            wrapped=wrapped,
            lora=lora,
            parameters=parameters,
            optimizer=optimizer,
            batch_size=settings.batch_size,
            accumulation=settings.gradient_accumulation,
            seed=settings.seed,
            group_by_length=settings.group_by_length,
            output_dir=settings.output_dir,
            base_name=choosing.base.name,
            skipped=skipped,
            log=log,
            console=console,
            bar=bar,
            model=FiveTokenModel(choosing.base, make_accelerations(settings)),
            prompts=choosing.prompts,
            catalogue=choosing.catalogue,
            train=data.train,
            valid=data.valid,
            shuffle=settings.shuffle_candidates,
            eos=settings.teach_eos,
            keep_last=settings.keep_last,
            recommender=_recommender(settings, choosing),
            best=None if state.best_result is None else ChoiceQuality(**state.best_result),  # type: ignore[arg-type]
        )
        _announce(settings, console, log, choosing, wrapped, data, total, state, resumed=resumed)
        trainer = Trainer(fabric, task, loop, parameters, optimizer, state, notice=console.info)
        if settings.validate_before_training and not resumed:
            task.validate(0)
        trainer.run()
    return task.best


def _recommender(settings: TuneSettings, choosing: Choosing) -> Recommender:
    store = choosing.catalogue.store
    return Recommender(
        text_only=store is None,
        visual_tokens={} if store is None else made_by(store.about),
        candidate_type=settings.candidate_type,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        num_epochs=settings.num_epochs,
    )


def _announce(
    settings: TuneSettings,
    console: Console,
    log: RunLog,
    choosing: Choosing,
    wrapped: PeftModel,
    data: TuneData,
    total: int,
    state: RunState,
    *,
    resumed: bool,
) -> None:
    """Say what is trained on what, and start the log."""
    base: BaseModel = choosing.base
    trained = sum(parameter.numel() for parameter in lora_parameters(wrapped).values())
    console.info(f"language model: {trained:,} LoRA parameters trained; vision tower and projector: frozen")
    console.info(
        f"{len(data.train)} training samples and {len(data.valid)} validation conversations; {total} optimizer steps "
        f"of {settings.batch_size} x {settings.gradient_accumulation} samples; "
        f"{choose_precision(settings.precision, base.model.device)} on {base.model.device}"
    )
    lists = [*(sample.candidates for sample in data.train), *(row.candidates for row in data.valid)]
    shown = [candidate.has_picture for candidates in lists for candidate in candidates]
    share = sum(shown) / len(shown)
    console.info(f"{share:.1%} of the candidates are shown with their picture's visual tokens")
    log.start(
        "tune",
        total_steps=total,
        settings=settings.model_dump(mode="json"),
        train_samples=len(data.train),
        val_samples=len(data.valid),
        trainable_parameters=trained,
        picture_share=share,
    )
    if settings.warmup >= total:
        console.warn(f"--warmup {settings.warmup} is longer than the run, which never comes to its full rate.")
    if resumed:
        console.info(f"Resumed at step {state.step} of {total}")


def _outcome(settings: TuneSettings, state: RunState, best: ChoiceQuality | None, skipped: SkipLog) -> Outcome:
    adapter = settings.output_dir / ADAPTER_FOLDER
    found = {} if best is None else asdict(best)
    flag = "text_only_adapter" if settings.text_only else "adapter"
    summary = {
        "output_dir": str(settings.output_dir),
        "adapter": str(adapter),
        "steps": state.step,
        "best_step": state.best_step,
        "val_hr_at_1": found.get("hr_at_1"),
        "val_ceiling": None if best is None else best.with_right / best.rows,
        "val_loss": found.get("loss"),
        "val_perplexity": found.get("perplexity"),
        **skipped.summary(),
    }
    return Outcome(summary=summary, next_step=f"Next: lavic evaluate --{flag} {adapter} and the same data flags.")
