"""``lavic tune``: from conversations, candidates and the item store to a language-model adapter (stage 2)."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from lavic.console import Console, Outcome
from lavic.embed.identity import base_marks
from lavic.model.adapters import attach_language_lora
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.base_model import load_model
from lavic.training.failures import machine_failures
from lavic.training.run_log import RunLog
from lavic.training.runs import TrainingRun, open_run, run_identity
from lavic.training.session import Session, Trainee, with_lora
from lavic.tune.card import Recommender, made_by, prompts_mark
from lavic.tune.config import TuneSettings
from lavic.tune.conversations import category_file
from lavic.tune.scoring import ChoiceQuality
from lavic.tune.setup import Choosing, TuneData, check_inputs, collect, make_accelerations, open_store, prepare
from lavic.tune.task import ADAPTER_FOLDER, TuneTask

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
    with (
        machine_failures(),
        open_run(settings, console, known_identity, adapter_folder=ADAPTER_FOLDER) as opened,
    ):
        return opened.finished_already() if opened.state.finished else _tune(opened)


def known_identity(settings: TuneSettings) -> dict[str, str]:
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


def _tune(run: TrainingRun[TuneSettings]) -> Outcome:
    settings, console = run.settings, run.console
    store = open_store(settings, console, model=settings.model, device=settings.device, precision=settings.precision)
    base = load_model(settings, console)
    choosing = prepare(settings, base, store, run.skipped)
    data = collect(settings, choosing, run.skipped)
    mark = "" if store is None else store.mark_of(data.item_ids, settings.images_per_item)
    run.begin(base, {"content of --item_store": mark})
    trainee = with_lora(settings, base, partial(attach_language_lora, lm_head=settings.lm_head))
    with run.logged("rows") as log:
        best = _train_to_end(run, trainee, choosing, data, log)
    return _outcome(run, best)


def _train_to_end(
    run: TrainingRun[TuneSettings], trainee: Trainee, choosing: Choosing, data: TuneData, log: RunLog
) -> ChoiceQuality | None:
    """Set up the task and train it to its end; the validation of the best adapter."""
    settings = run.settings
    session = Session(run, trainee, log, len(data.train))
    with session.bar("Tuning") as bar:
        task = TuneTask(
            **session.task_fields(bar),
            model=FiveTokenModel(choosing.base, make_accelerations(settings)),
            prompts=choosing.prompts,
            catalogue=choosing.catalogue,
            train=data.train,
            valid=data.valid,
            shuffle=settings.shuffle_candidates,
            eos=settings.teach_eos,
            keep_last=settings.keep_last,
            recommender=_recommender(settings, choosing, steps=session.total, train_samples=len(data.train)),
            best=run.best_so_far(ChoiceQuality),
        )
        _announce(session, data)
        session.train(task)
    return task.best


def _recommender(settings: TuneSettings, choosing: Choosing, *, steps: int, train_samples: int) -> Recommender:
    store = choosing.catalogue.store
    return Recommender(
        text_only=store is None,
        visual_tokens={} if store is None else made_by(store.about),
        candidate_type=settings.candidate_type,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        num_epochs=settings.num_epochs,
        images_per_item=settings.images_per_item,
        base=base_marks(choosing.base),
        steps=steps,
        seed=settings.seed,
        prompts=prompts_mark(choosing.prompts.builder.prompts),
        samples_per_step=settings.batch_size * settings.gradient_accumulation,
        train_samples=train_samples,
        lora_r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
    )


def _announce(session: Session, data: TuneData) -> None:
    """Say what is trained on what, and start the log."""
    console, trained = session.run.console, session.trainee.trained
    console.info(f"language model: {trained:,} LoRA parameters trained; vision tower and projector: frozen")
    samples = f"{len(data.train)} training samples and {len(data.valid)} validation conversations"
    console.info(f"{samples}; {session.plan}")
    lists = [*(sample.candidates for sample in data.train), *(row.candidates for row in data.valid)]
    shown = [candidate.has_picture for candidates in lists for candidate in candidates]
    share = sum(shown) / len(shown)
    console.info(f"{share:.1%} of the candidates are shown with their picture's visual tokens")
    session.log_start("tune", data.train, data.valid, picture_share=share)


def _outcome(run: TrainingRun[TuneSettings], best: ChoiceQuality | None) -> Outcome:
    settings = run.settings
    adapter = settings.output_dir / ADAPTER_FOLDER
    found = {} if best is None else asdict(best)
    flag = "text_only_adapter" if settings.text_only else "adapter"
    summary = {
        "output_dir": str(settings.output_dir),
        "adapter": str(adapter),
        "steps": run.state.step,
        "best_step": run.state.best_step,
        "val_hr_at_1": found.get("hr_at_1"),
        "val_ceiling": None if best is None else best.with_right / best.rows,
        "val_loss": found.get("loss"),
        "val_perplexity": found.get("perplexity"),
        **run.skipped.summary(),
    }
    return Outcome(summary=summary, next_step=f"Next: lavic evaluate --{flag} {adapter} and the same data flags.")
