"""The result of ``distill.py`` as tables."""

from __future__ import annotations

from typing import Any

from lavic.console import Console


def show(result: dict[str, Any], console: Console) -> None:
    """The tables."""
    agreement = result["parity"]
    console.print(
        f"{result['shape']} on {result['device']}, {result['precision']}, {result['threads']} threads, batches of "
        f"{result['batch_size']}, {result['tokens_per_sample']:.0f} tokens a sample; "
        f"{100 * result['vision_share']:.0f} % of the arithmetic is the tower's."
    )
    console.print(
        f"Both sides agree (fp32, no dropout): loss within {agreement['loss_difference']:.1e}, "
        f"LoRA gradients within {agreement['gradient_difference']:.1e}."
    )
    rows: list[list[str]] = []
    for name, values, scale, form in (
        ("samples a second", result["samples_per_s"], 1, ".3f"),
        ("GFLOP a sample", result["flops_per_sample"], 1e-9, ".1f"),
        ("share of the device's peak, %", result["share_of_peak"], 100, ".1f"),
        ("peak memory, MB", result["peak_memory_bytes"], 1e-6, ".0f"),
        ("of it before the first step, MB", result["memory_before_bytes"], 1e-6, ".0f"),
        ("first step after, s", result["first_step_s"], 1, ".2f"),
        ("waiting for pictures, % of time", result["input_share"], 100, ".1f"),
        ("processor time a sample, s", result["cpu_s_per_sample"], 1, ".3f"),
    ):
        rows.append([name, *(format(values[side] * scale, form) for side in ("published", "lavic"))])
    console.table(rows, header=["", "published", "lavic"])
    low, high = result["ratio_range"]
    console.print(
        f"lavic is {result['ratio']:.3f} times as fast ({low:.3f} to {high:.3f} in single rounds; by processor time "
        f"{result['cpu_time_ratio']:.3f}). Its arithmetic is {result['flop_bound']:.3f} times less: "
        f"{100 * result['share_of_flop_bound']:.0f} % of what that allows is reached."
    )
    own = result["own_defaults"]
    console.print(
        f"With its own defaults ({own['precision']}, {own['workers']} workers): {own['samples_per_s']:.3f} samples/s."
    )
    effects = [
        [row["name"], row["default"], *(format(row[key], ".3f") for key in ("speed", "cpu_time", "flops"))]
        for row in result["switches"]
    ]
    title = "Each switch alone: speed with it over speed without, the same by processor time, arithmetic saved"
    console.table(effects, header=["switch", "default", "speed", "by processor time", "arithmetic"], title=title)
