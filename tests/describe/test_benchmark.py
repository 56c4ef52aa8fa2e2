"""benchmarks/describe.py runs, and all its sides write the same texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_runs(tmp_path):
    target = tmp_path / "b.json"
    command = [sys.executable, "benchmarks/describe.py", "--pictures", "10", "--batch_size", "5", "--repeats", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--json", target], cwd=ROOT, env=environment, check=True, capture_output=True)
    found = json.loads(target.read_text())
    assert found["same_texts"] is True
    assert {name: side["padding"] > 0 for name, side in found["sides"].items()} == {
        "one": False,
        "batched": True,
        "grouped": True,
    }
    assert found["sides"]["grouped"]["padding"] < found["sides"]["batched"]["padding"]
