"""benchmarks/item_store.py runs, reads what it wrote, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_runs_and_tidies_up(tmp_path: Path) -> None:
    target, folder = tmp_path / "b.json", tmp_path / "stores"
    folder.mkdir()
    command = [sys.executable, "benchmarks/item_store.py", "--entries", "1003", "--dim", "16", "--timed", "20"]
    subprocess.run([*command, "--folder", folder, "--json", target], cwd=ROOT, check=True, capture_output=True)
    found = json.loads(target.read_text())
    assert found["tokens_gb"] == round((4096 + 1003 * 5 * 16 * 2) / 1e9, 3)
    assert found["batch_ms"] > 0
    assert found["rss_anon_growth_mb"] >= found["rss_anon_open_mb"]
    assert list(folder.iterdir()) == []
