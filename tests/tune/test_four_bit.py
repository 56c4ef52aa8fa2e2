"""Stage 2 on a language model in 4 bits: tuned, stopped, judged."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tune_world import evaluate_flags, make_shop, tune_flags

from lavic.cli.main import run_command_line
from lavic.files import sha256_file
from lavic.tune.task import ADAPTER_FOLDER

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (lavic[four-bit])"
)


def test_a_recommender_is_tuned_and_judged_in_four_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, four_bit = make_shop(tmp_path), {"quantize": "nf4"}
    for name in ("one", "two"):
        assert run_command_line(tune_flags(world, tmp_path / name, max_steps=2, lm_head=True, **four_bit)) == 0
    weights = [tmp_path / name / ADAPTER_FOLDER / "adapter_model.safetensors" for name in ("one", "two")]
    assert sha256_file(weights[0]) == sha256_file(weights[1])
    capsys.readouterr()
    words = evaluate_flags(
        world, tmp_path / "judged", adapter=weights[0].parent, max_rows=4, no_greedy=True, **four_bit
    )
    assert run_command_line([*words, "--json"]) == 0
    systems = json.loads((tmp_path / "judged" / "results.json").read_text())["systems"]
    assert systems["lavic"]["rows"] == 4
    assert systems["lavic"]["picture_share"] == 1
