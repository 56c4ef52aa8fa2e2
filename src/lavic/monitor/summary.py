"""A run in a screen of text, and as names and values."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from lavic.rendering import duration, plain_table, shown
from lavic.training.run_view import RunView

CURVE_WIDTH, CURVE_HEIGHT = 60, 8
LAST_WARNINGS = 5

_STATUS = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped early",
    "interrupted": "interrupted",
    "failed": "failed",
    "killed": "not running, and it did not come to an end (killed?)",
}


def run_values(view: RunView) -> dict[str, Any]:
    """What ``lavic monitor --json`` prints; None is what is not known."""
    last = view.validations[-1] if view.validations else None
    return {
        "output_dir": str(view.output_dir),
        "status": view.status,
        "command": view.command or None,
        "step": view.step,
        "total_steps": view.total_steps,
        "epoch": view.epoch,
        "samples_per_s": view.samples_per_s,
        "eta_s": view.eta_s,
        "elapsed_s": view.elapsed_s,
        "train_loss": view.train_loss,
        "lowest_train_loss": view.lowest_train_loss,
        "val_loss": last.val_loss if last else None,
        "val_perplexity": last.val_perplexity if last else None,
        "best_val_loss": view.best.val_loss if view.best else None,
        "best_step": view.best.step if view.best else None,
        "checkpoint_step": view.last_checkpoint_step,
        "skipped": view.skipped,
        "warnings": list(view.warnings),
        "reason": (view.end or {}).get("reason"),
    }


def run_lines(view: RunView) -> list[str]:
    """The same for a person: where the run is, how it goes, its curve and its last warnings."""
    rows: list[tuple[str, str]] = [("progress", _progress(view))]
    if view.samples_per_s is not None or view.elapsed_s is not None:
        rows.append(("speed", _speed(view)))
    if view.train_loss is not None:
        rows.append(("train loss", f"{shown(view.train_loss)} (lowest {shown(view.lowest_train_loss)})"))
    if view.validations:
        rows.append(("val loss", _validation(view)))
    if view.last_checkpoint_step is not None:
        rows.append(("checkpoint", f"step {view.last_checkpoint_step:,}"))
    if view.skipped:
        rows.append(("left out", f"{view.skipped:,} rows or pictures, listed in {view.output_dir}/skipped.jsonl"))
    lines = [f"{view.command or 'run'} in {view.output_dir}: {_status(view)}", *plain_table(rows)]
    lines += loss_curve(view.losses)
    if view.warnings:
        lines += [
            "",
            f"Warnings ({len(view.warnings)}):",
            *(f"  {text}" for text in view.warnings[-LAST_WARNINGS:]),
        ]
    return lines


def next_step(view: RunView) -> str:
    """What to do now, a sentence."""
    if view.status in ("killed", "interrupted", "failed", "stopped"):
        return f"Go on from the last checkpoint with: lavic {view.command or 'distill'} ... --resume"
    return ""


def loss_curve(losses: Sequence[tuple[int, float]], width: int = CURVE_WIDTH, height: int = CURVE_HEIGHT) -> list[str]:
    """The training loss over the steps, drawn with asterisks; a column is the median of its share of steps.

    Returns:
        No lines if there are fewer than two steps.
    """
    if len(losses) < 2:
        return []
    columns = _columns([loss for _, loss in losses], min(width, len(losses)))
    low, high = min(columns), max(columns)
    span = high - low or 1.0
    levels = [round((value - low) / span * (height - 1)) for value in columns]
    lines = ["", f"train loss, step {losses[0][0]:,} to {losses[-1][0]:,}"]
    for level in range(height - 1, -1, -1):
        label = {height - 1: f"{high:.3f}", 0: f"{low:.3f}"}.get(level, "")
        lines.append(f"{label:>9} |{''.join('*' if at == level else ' ' for at in levels)}".rstrip())
    return lines


def _columns(values: Sequence[float], count: int) -> list[float]:
    """Values in ``count`` groups of nearly equal size, the median of each: one odd step bends no curve."""
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    return [statistics.median(values[a:b]) for a, b in itertools.pairwise(edges)]


def _status(view: RunView) -> str:
    reason = (view.end or {}).get("reason")
    return _STATUS.get(view.status, view.status) + (f" ({reason})" if reason else "")


def _progress(view: RunView) -> str:
    if view.total_steps is None:
        return f"step {view.step:,}"
    share = 100 * view.step / view.total_steps if view.total_steps else 100.0
    epoch = f", epoch {view.epoch:.2f}" if view.epoch is not None else ""
    return f"step {view.step:,} of {view.total_steps:,} ({share:.0f} %){epoch}"


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
