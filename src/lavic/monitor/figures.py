"""A run's figures in words, for the screen and the summary alike."""

from __future__ import annotations

from lavic.rendering import duration, shown
from lavic.training.run_view import RunView

STATUS_WORDS = {
    "none": "no run",
    "starting": "starting",
    "running": "running",
    "finished": "finished",
    "stopped": "stopped early",
    "interrupted": "interrupted",
    "failed": "failed",
    "killed": "not running, and it did not come to an end (killed?)",
}
# A run is called silent after as many of its usual steps, and a minute at least.
_SILENT_STEPS, _SILENT_S = 20, 60.0
_MAX_REASONS = 3


def progress(view: RunView) -> str:
    """How far the run is, how long it took and will take."""
    if view.status == "none":
        return "No run here yet."
    parts = [progress_in_steps(view)]
    if view.elapsed_s is not None:
        parts.append(f"{duration(view.elapsed_s)} so far")
    if view.eta_s is not None:
        parts.append(f"{duration(view.eta_s)} left")
    return ", ".join(parts)


def progress_in_steps(view: RunView) -> str:
    """``step 850 of 1,250 (68 %), epoch 0.68``."""
    if view.total_steps is None:
        return f"step {view.step:,}" if view.step else "no step yet"
    share = 100 * view.step / view.total_steps if view.total_steps else 100.0
    epoch = f", epoch {view.epoch:.2f}" if view.epoch is not None else ""
    return f"step {view.step:,} of {view.total_steps:,} ({share:.0f} %){epoch}"


def silence(view: RunView) -> str:
    """That a running run wrote nothing for longer than its steps explain; empty if it did."""
    if view.status != "running" or view.silent_s is None:
        return ""
    left = (view.total_steps or 0) - view.step
    usual = view.eta_s / left if view.eta_s is not None and left > 0 else 0.0
    if view.silent_s < max(_SILENT_S, _SILENT_STEPS * usual):
        return ""
    return f"Nothing new for {duration(view.silent_s)} (a validation, a slow disk, or it hangs)."


def next_step(view: RunView) -> str:
    """What to do now, a sentence."""
    if view.status in ("killed", "interrupted", "failed", "stopped"):
        return f"Go on from the last checkpoint with: lavic {view.command or 'distill'} ... --resume"
    return ""


def figures(view: RunView) -> list[tuple[str, str]]:
    """Name and value of what is known, for the left side of the screen."""
    rows: list[tuple[str, str]] = []
    if view.train_loss is not None:
        text = f"{shown(view.train_loss)} (mean of {view.smoothing}: {shown(view.smoothed_train_loss)})"
        rows.append(("train_loss", text))
    if view.samples_per_s is not None:
        mean = view.mean_samples_per_s
        rows.append(("samples/s", f"{view.samples_per_s:.3g}" + (f" (mean {mean:.3g})" if mean is not None else "")))
    if view.lr is not None:
        rows.append(("learning rate", f"{view.lr:.3e}"))
    if view.gradient_norm is not None:
        rows.append(("gradient norm", shown(view.gradient_norm)))
    if view.memory_gb is not None:
        rows.append(("peak memory", f"{view.memory_gb:.1f} GB"))
    if view.last_checkpoint_step is not None:
        rows.append(("checkpoint", f"step {view.last_checkpoint_step:,}"))
    rows.append(("left out", f"{view.skipped:,}{_reasons(view)}" if view.skipped else "nothing"))
    return rows


def left_out(view: RunView) -> str:
    """How many rows and pictures were left out, with the most frequent reasons."""
    return f"{view.skipped:,} rows or pictures" + _reasons(view)


def _reasons(view: RunView) -> str:
    if len(view.skipped_reasons) == 1:
        return f" ({next(iter(view.skipped_reasons))})"
    reasons = [f"{count:,} {reason}" for reason, count in view.skipped_reasons.items()]
    if len(reasons) > _MAX_REASONS:
        reasons[_MAX_REASONS:] = ["..."]
    return f" ({'; '.join(reasons)})" if reasons else ""


def validation_rows(view: RunView, most: int) -> list[tuple[str, str]]:
    """Line and style of a table of the last validations; the best is always among them."""
    rows = list(view.validations)[-max(1, most - 1) :]
    if view.best is not None and all(each is not view.best for each in rows):
        rows[0] = view.best
    if not rows:
        return [("no validation yet", "dim")]
    lines = [(f"{'step':>9}  {'val_loss':>8}  val_perplexity", "dim")]
    for each in rows:
        best = each is view.best
        numbers = f"{each.step:>9,}  {shown(each.val_loss):>8}  {shown(each.val_perplexity):>8}"
        lines.append((numbers + ("  best" if best else ""), "bold green" if best else ""))
    return lines
