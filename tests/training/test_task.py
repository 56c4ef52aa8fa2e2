"""What every training task logs of a step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lavic.skipped import SkipLog
from lavic.training.loop import StepReport
from lavic.training.task import TrainTask


@pytest.mark.parametrize(("device", "expected"), [("cpu", "process"), ("cuda", "GPU")])
def test_the_memory_of_a_step_is_that_of_the_runs_device(
    monkeypatch: pytest.MonkeyPatch, device: str, expected: str
) -> None:
    # A machine with a GPU, on which a run with --device cpu takes nothing.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    rows: list[dict[str, Any]] = []
    nothing: dict[str, Any] = dict.fromkeys(("wrapped", "lora", "parameters", "optimizer", "console"))
    task = TrainTask(
        **nothing,
        fabric=SimpleNamespace(device=torch.device(device)),
        log=SimpleNamespace(step=lambda step, **fields: rows.append(fields)),
        bar=SimpleNamespace(advance=lambda count, **fields: rows.append(fields)),
        skipped=SkipLog(),
        batch_size=1,
        accumulation=1,
        seed=0,
        group_by_length=False,
        output_dir=Path("out"),
        base_name="tiny",
    )
    task.step_done(StepReport(1, 0.5, 0.7, 10, 1, 1e-4, 1.0, 0.1))
    logged, shown = rows
    # This process, with torch in it, has taken some hundred MB.
    assert (logged["memory_gb"] > 0.1) == (expected == "process")
    assert (shown["memory"] == "0.0 GB") == (expected == "GPU")
