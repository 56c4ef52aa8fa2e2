"""The script as a user runs it: the JSON's keys, the refusals, and sides that disagree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from distill import main, parse
from measure import Parity
from sides import lavic_side, switched

from lavic.errors import TrainingError

KEYS = {
    *("samples_per_s", "ratio", "flop_bound", "share_of_flop_bound", "flops_per_sample", "share_of_peak"),
    *("peak_flops_per_s", "peak_memory_bytes", "first_step_s", "input_share", "switches", "own_defaults", "parity"),
}


def test_a_short_run_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "bench.json"
    words = ["--shape", "tiny", "--steps", "1", "--rounds", "1", "--batch_size", "2", "--workers", "1"]
    threads = torch.get_num_threads()
    try:
        assert main([*words, "--threads", "1", "--json", str(path)]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads(path.read_text())
    assert set(result) >= KEYS
    pair = result["samples_per_s"]
    assert result["ratio"] == pytest.approx(pair["lavic"] / pair["published"])
    flops = result["flops_per_sample"]
    assert result["flop_bound"] == pytest.approx(flops["published"] / flops["lavic"])
    assert result["parity"]["gradient_difference"] < 1e-4
    for key in ("share_of_peak", "peak_memory_bytes", "first_step_s", "input_share"):
        assert set(result[key]) == {"lavic", "published"}
        assert all(value > 0 for value in result[key].values()), key
    effects = {row["name"]: row for row in result["switches"]}
    names = {"cls_only", "prefix_cache", "frozen_start", "target_logits", "lean_vision", "lean_language"}
    assert set(effects) == {*names, "activation_checkpointing", "group_by_length", "num_workers", "picture_cache"}
    assert effects["cls_only"]["flops"] > 1
    assert effects["activation_checkpointing"]["flops"] < 1
    assert "% of what that allows is reached" in capsys.readouterr().out


def test_readers_are_default_where_a_gpu_computes_beside_them() -> None:
    assert (parse([]).workers, parse(["--device", "cuda"]).workers, parse(["--workers", "3"]).workers) == (0, 2, 3)


@pytest.mark.parametrize(("workers", "other"), [(0, 2), (2, 0)])
def test_readers_are_one_of_the_switches(workers: int, other: int) -> None:
    effects = {side.name: (side.workers, on) for side, on in switched(lavic_side(workers), torch.device("cpu"))}
    assert effects["num_workers"] == (other, other > 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_the_7b_is_refused_on_a_processor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shape", "7b"]) == 2
    assert capsys.readouterr().err == (
        "Error: --shape 7b: a model of the 7B's size is timed on a GPU only. On a machine with one: "
        "python benchmarks/distill.py --device cuda --shape 7b --json build/bench-7b.json\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_a_missing_gpu_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("Error: --device cuda: no NVIDIA GPU can be used on this machine.")


@pytest.mark.parametrize(("loss", "gradient"), [(1e-3, 0.0), (0.0, 0.1), (float("nan"), 0.0)])
def test_sides_that_disagree_are_not_timed(loss: float, gradient: float) -> None:
    with pytest.raises(TrainingError, match="Nothing was timed") as caught:
        Parity(loss, gradient).require()
    assert caught.value.exit_code == 2


def test_disagreement_ends_the_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("distill.parity", lambda bench, side: Parity(0.5, 0.5))
    words = ["--shape", "tiny", "--steps", "1", "--batch_size", "1", "--threads", str(torch.get_num_threads())]
    assert main(words) == 2
    assert "differ by 0.5 and 0.5 of their size" in capsys.readouterr().err
