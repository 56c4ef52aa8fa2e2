"""The crawl's benchmark: img2dataset is taken at its best, and the goals are read off the right figures."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def crawl() -> ModuleType:
    """The script, which has the name of a package of lavic's tests."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "crawl.py"
    spec = importlib.util.spec_from_file_location("crawl_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crawl_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(crawl: ModuleType, tmp_path: Path) -> object:
    (tmp_path / "drawn").mkdir()
    return crawl.Bench(
        argparse.Namespace(source=tmp_path / "drawn", work=tmp_path, runs=tmp_path, count=None), "keep", None
    )


def test_img2dataset_runs_with_the_fastest_of_all_settings(
    crawl: ModuleType, bench: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, int]] = []

    def run(side: str, latency_ms: float) -> float | None:
        assert side == "img2dataset"
        tried.append(bench.best[latency_ms])
        threads, processes = tried[-1]
        return None if threads == 256 else threads + 10 / processes

    monkeypatch.setattr(bench, "run", run)
    assert bench.best_run(50) == 74
    assert sorted(tried) == [(threads, processes) for threads in (16, 64, 256) for processes in (1, 2)]
    assert bench.best_run(50) == 74
    assert tried[6:] == [(64, 1)]
    assert bench.best == {50: (64, 1)}


def test_without_img2dataset_there_is_no_figure(bench: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "run", lambda side, latency_ms: None)
    assert bench.best_run(0) is None


def test_the_goals_are_read_off_the_right_figures(crawl: ModuleType) -> None:
    rates = {
        "0": {"one": 5.0, "img2dataset": 100.0, "lavic": 300.0, "alone": 400.0},
        "50": {"one": 4.0, "img2dataset": 90.0, "lavic": 270.0, "alone": 300.0},
        "200": {"one": 3.0, "img2dataset": None, "lavic": 240.0, "alone": 300.0},
    }
    assert crawl.verdicts(rates) == {
        "times img2dataset at 0 ms (> 1)": 3.0,
        "times img2dataset at 50 ms (> 1)": 3.0,
        "times img2dataset at 200 ms (> 1)": None,
        "times one at a time at 200 ms (>= 20)": 80.0,
        "share of decoding and encoding alone at 50 ms (>= 0.9)": 0.9,
    }
