"""What a real, small run leaves for the monitor while it goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_world import flags, make_empty, make_world, train_rows

from lavic.cli.main import run_command_line
from lavic.distill.task import DistillTask
from lavic.training.loop import StepReport
from lavic.training.run_view import RunView, read_run


def test_a_run_shows_its_figures_and_what_it_leaves_out_while_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path / "world", items=12)
    for item_id in list(train_rows(world))[:2]:
        make_empty(next((world / "train_images").glob(f"{item_id}_*")))
    seen: list[RunView] = []
    step_done = DistillTask.step_done

    def and_look(self: DistillTask, report: StepReport) -> None:
        step_done(self, report)
        seen.append(read_run(tmp_path / "out"))

    monkeypatch.setattr(DistillTask, "step_done", and_look)
    assert run_command_line(flags(world, tmp_path / "out", batch_size=2)) == 0

    last = seen[-1]
    assert [view.status for view in seen] == ["running"] * 4
    assert (last.skipped, last.step, last.total_steps) == (2, 4, 4)
    assert None not in (last.train_loss, last.lr, last.gradient_norm, last.memory_gb, last.mean_samples_per_s)
    (log,) = (tmp_path / "logs").glob("training_*.log")
    text = log.read_text(encoding="utf-8")
    before_the_end = text[: text.index(" end step=4")]
    assert re.search(r"left out so far: 2 rows or pictures; \S*skipped\.jsonl lists them", before_the_end)
    assert len(re.findall(r"^\S+ \S+ step step=\d+ train_loss=\d+\.\d+ lr=", text, re.MULTILINE)) == 4
    assert re.search(r"^\S+ \S+ validation step=4 val_loss=\d+\.\d+ val_perplexity=\d+\.\d+ ", text, re.MULTILINE)
    assert read_run(tmp_path / "out").skipped == 2
