"""``benchmarks/effectiveness.py``: when lavic counts as clearly ahead, and what is not run twice."""

from __future__ import annotations

from argparse import Namespace

import effectiveness
import pytest

from lavic.console import Console
from lavic.files import write_json


def found(lavic=(0.7, 0.8), undistilled=(0.3, 0.4), text_only=(0.08, 0.12), seed=0):
    intervals = {"lavic": list(lavic), "undistilled": list(undistilled), "text_only": list(text_only)}
    hits = {name: sum(interval) / 2 for name, interval in intervals.items()}
    return {"asked": {"seed": seed}, "hr@1": {"chance": 0.1, **hits}, "hr@1_interval": intervals}


def test_ahead_is_above_the_others_intervals_with_text_at_chance():
    assert effectiveness.clearly_ahead(found())
    assert not effectiveness.clearly_ahead(found(undistilled=(0.6, 0.71)))
    assert not effectiveness.clearly_ahead(found(text_only=(0.11, 0.15)))
    assert not effectiveness.clearly_ahead(found(lavic=(0.1, 0.2), undistilled=(0.02, 0.05)))


def test_a_line_for_each_world_and_their_mean():
    lines = effectiveness.lines_of([found(), found(lavic=(0.5, 0.6), seed=3)])
    assert lines[0] == ["0", "10.0% [8.0%, 12.0%]", "35.0% [30.0%, 40.0%]", "75.0% [70.0%, 80.0%]", "yes"]
    assert lines[1][0] == "3"
    assert lines[2] == ["mean", "10.0%", "35.0%", "65.0%", ""]


@pytest.fixture
def demos(monkeypatch):
    seen = []

    def run(settings, console):
        seen.append(settings)
        write_json(settings.output_dir / "summary.json", {**found(seed=settings.seed), "test_conversations": 1000})

    monkeypatch.setattr(effectiveness, "run", run)
    return seen


def test_a_world_is_run_once_and_anew_with_other_settings(tmp_path, demos):
    arguments = Namespace(items=400, steps=2, tune_steps=2, workers=0, full_tokens=False)
    for _ in range(2):
        (tmp_path / "seed-5").mkdir(exist_ok=True)
        world = effectiveness.world(tmp_path, 5, arguments, Console())
        assert world["test_conversations"] == 1000
        assert world["asked"]["tune_steps"] == 2
    assert [settings.seed for settings in demos] == [5]
    assert demos[0].undistilled
    arguments.tune_steps = 3
    effectiveness.world(tmp_path, 5, arguments, Console())
    assert [settings.tune_steps for settings in demos] == [2, 3]
