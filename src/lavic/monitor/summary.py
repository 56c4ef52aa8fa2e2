"""A run in a screen of text, and as names and values."""

from __future__ import annotations

from typing import Any

from lavic.monitor.curve import loss_curve
from lavic.monitor.figures import STATUS_WORDS, left_out, progress_in_steps
from lavic.monitor.log_tail import LogTail
from lavic.rendering import duration, plain_table, shown
from lavic.training.run_log import SKIPPED_FILE
from lavic.training.run_view import RunView

LAST_WARNINGS = 5


def run_values(view: RunView, tail: LogTail) -> dict[str, Any]:
    """What ``lavic monitor --json`` prints of a run and its log; None is what is not known."""
    last = view.validations[-1] if view.validations else None
    return {
        "output_dir": str(view.output_dir),
        "status": view.status,
        "command": view.command or None,
        "step": view.step,
        "total_steps": view.total_steps,
        "epoch": view.epoch,
        "samples_per_s": view.samples_per_s,
        "mean_samples_per_s": view.mean_samples_per_s,
        "eta_s": view.eta_s,
        "elapsed_s": view.elapsed_s,
        "train_loss": view.train_loss,
        "smoothed_train_loss": view.smoothed_train_loss,
        "lowest_train_loss": view.lowest_train_loss,
        "lr": view.lr,
        "gradient_norm": view.gradient_norm,
        "memory_gb": view.memory_gb,
        "val_loss": last.val_loss if last else None,
        "val_perplexity": last.val_perplexity if last else None,
        "best_val_loss": view.best.val_loss if view.best else None,
        "best_step": view.best.step if view.best else None,
        "checkpoint_step": view.last_checkpoint_step,
        "validations": [
            {"step": each.step, "val_loss": each.val_loss, "val_perplexity": each.val_perplexity}
            for each in view.validations
        ],
        "skipped": view.skipped,
        "skipped_reasons": dict(view.skipped_reasons),
        # Where there is no run yet, the newest log is another one's.
        "warnings": [] if view.status == "none" else list(tail.alerts),
        "reason": (view.end or {}).get("reason"),
        "log_file": str(tail.path) if tail.path else None,
    }


def run_lines(view: RunView, tail: LogTail) -> list[str]:
    """The same for a person: where the run is, how it goes, its curve and its last warnings."""
    rows: list[tuple[str, str]] = [("progress", progress_in_steps(view))]
    if view.samples_per_s is not None or view.elapsed_s is not None:
        rows.append(("speed", _speed(view)))
    if view.train_loss is not None:
        rows.append(("train loss", f"{shown(view.train_loss)} (lowest {shown(view.lowest_train_loss)})"))
    if view.validations:
        rows.append(("val loss", _validation(view)))
    if view.last_checkpoint_step is not None:
        rows.append(("checkpoint", f"step {view.last_checkpoint_step:,}"))
    if view.skipped:
        rows.append(("left out", f"{left_out(view)}, listed in {view.output_dir}/{SKIPPED_FILE}"))
    lines = [f"{view.command or 'run'} in {view.output_dir}: {_status(view)}", *plain_table(rows)]
    lines += loss_curve(view.losses)
    if tail.alerts:
        last = list(tail.alerts)[-LAST_WARNINGS:]
        lines += ["", f"Warnings and errors ({tail.alert_count}):", *(f"  {line}" for line in last)]
    if tail.path is not None:
        lines += ["", f"The whole log: tail -f {tail.path}"]
    return lines


def _status(view: RunView) -> str:
    reason = (view.end or {}).get("reason")
    return STATUS_WORDS[view.status] + (f" ({reason})" if reason else "")


def _speed(view: RunView) -> str:
    parts = [f"{view.samples_per_s:.3g} samples/s"] if view.samples_per_s is not None else []
    if view.eta_s is not None:
        parts.append(f"{duration(view.eta_s)} left")
    if view.elapsed_s is not None:
        parts.append(f"{duration(view.elapsed_s)} so far")
    return ", ".join(parts)


def _validation(view: RunView) -> str:
    last, best = view.validations[-1], view.best
    text = f"{shown(last.val_loss)}, perplexity {shown(last.val_perplexity)}, at step {last.step:,}"
    return text + (f" (best {shown(best.val_loss)} at step {best.step:,})" if best else "")
