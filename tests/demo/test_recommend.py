"""Stage 2 of the demo: what its summary takes from an evaluation, and the whole of it once, in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lavic.console import Console
from lavic.demo.config import DemoSettings
from lavic.demo.recommend import FOLDERS, section, summary_of
from lavic.demo.run import run


def system(hit: float) -> dict[str, Any]:
    values = {
        "hr@1": {"value": hit, "low": hit - 0.05, "high": hit + 0.05},
        "validity@1": {"value": 0.9 + hit / 100, "low": 0.9, "high": 1.0},
    }
    return {"values": values, "chance": 0.1, "rows": 50}


def test_a_system_that_was_not_tuned_is_null_and_the_others_have_an_interval() -> None:
    results = {"systems": {"text_only": system(0.1), "lavic": system(0.7), "lavic_greedy": system(0.6)}}
    found = summary_of(results)
    assert found["hr@1"] == {"chance": 0.1, "text_only": 0.1, "undistilled": None, "lavic": 0.7, "full_tokens": None}
    assert found["hr@1_interval"]["lavic"] == pytest.approx([0.65, 0.75])
    assert found["hr@1_interval"]["undistilled"] is None
    assert found["validity"] == pytest.approx({"lavic": 0.907, "lavic_greedy": 0.906})
    assert found["test_conversations"] == 50


def test_the_page_shows_a_bar_for_each_that_was_tuned() -> None:
    results = {"systems": {name: system(0.3) for name in ("text_only", "undistilled", "lavic")}}
    page = section(summary_of(results))
    assert all(name in page for name in ("text_only", "undistilled", "lavic"))
    assert "full_tokens" not in page
    assert section({}) == ""


@pytest.mark.slow
def test_the_demo_recommends_with_every_system(tmp_path: Path) -> None:
    """One step each: what is shown is that the path is whole, not how well it recommends."""
    wanted = DemoSettings(
        output_dir=tmp_path / "demo", items=400, steps=2, tune_steps=1, undistilled=True, full_tokens=True, workers=0
    )
    assert run(wanted, Console()).exit_code == 0
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert set(summary["hr@1"]) == {"chance", *FOLDERS}
    assert all(0 <= share <= 1 for share in summary["hr@1"].values())
    assert summary["hr@1"]["chance"] == pytest.approx(0.1, abs=0.001)
    assert 0 <= min(summary["validity"].values()) <= max(summary["validity"].values()) <= 1
    assert summary["test_conversations"] >= 100
    assert set(summary["tune_seconds"]) == {folder for folder, _ in FOLDERS.values()}
    assert "Recommending" in (tmp_path / "demo" / "report.html").read_text()
