"""A contract with vLLM's documented offline interface, held against a stand-in module."""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest
from bare_world import bare_world, flags, texts
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.describe.teacher_prompt import teacher_prompt
from lavic.model.load import TINY_FOLDER, inspect_base
from lavic.prompts import DEFAULT_PROMPTS


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the stand-in was called with. Its signatures are those of vLLM's documentation."""
    made: list[tuple[str, Any]] = []

    class SamplingParams:
        def __init__(self, *, temperature: float, top_p: float, max_tokens: int, seed: int | None) -> None:
            self.values = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}

    class LLM:
        def __init__(self, model: str, **arguments: Any) -> None:
            made.append(("LLM", {"model": model, **arguments}))

        def generate(self, prompts: Any, sampling_params: Any = None, *, use_tqdm: bool = True) -> list[Any]:
            made.append(("generate", (prompts, sampling_params, use_tqdm)))
            full = SimpleNamespace(text=" A thing. It", token_ids=[5, 6, 7], finish_reason="length")
            done = SimpleNamespace(text=" A thing.", token_ids=[5, 6, 2], finish_reason="stop")
            return [SimpleNamespace(outputs=[full if number == 0 else done]) for number in range(len(prompts))]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def test_vllm_is_called_as_documented(calls, tmp_path):
    world = bare_world(tmp_path / "w", 12)
    assert run_command_line(flags(world, engine="vllm", batch_size=3, valid_only=True)) == 0
    assert run_command_line(flags(world, engine="vllm", batch_size=3)) == 0
    (name, made), *generated = [call for call in calls if call[0] == "LLM"][:1] + [
        call for call in calls if call[0] == "generate"
    ]
    assert name == "LLM"
    assert made == {
        "model": str(TINY_FOLDER),
        "dtype": "float32",
        "max_model_len": 3584 + 48,
        "max_num_seqs": 3,
        "limit_mm_per_prompt": {"image": 1},
        "trust_remote_code": False,
    }
    base = inspect_base("tiny")
    ids = list(teacher_prompt(base, DEFAULT_PROMPTS.describe).input_ids)
    assert ids.count(base.model.config.image_token_id) == 1
    seeds = set()
    for _, (prompts, params, bar) in generated:
        assert 1 <= len(prompts) == len(params) <= 3
        assert bar is False
        for prompt, param in zip(prompts, params, strict=True):
            assert prompt["prompt_token_ids"] == ids
            assert list(prompt["multi_modal_data"]) == ["image"]
            assert prompt["multi_modal_data"]["image"].mode == "RGB"
            seeds.add(param.values.pop("seed"))
            assert param.values == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 48}
    assert len(seeds) == 12
    # Where the limit ended a text, its half sentence went.
    assert set(texts(world).values()) == {"A thing."}


def test_a_missing_vllm_is_told_before_anything_is_read(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    sentence = refused(capsys, flags(tmp_path / "nowhere", engine="vllm"))
    assert sentence == (
        "--engine vllm: vLLM is not installed. Install it with `pip install lavic[vllm]` (it needs an NVIDIA GPU), "
        "or leave the flag out."
    )


def test_vllm_that_cannot_load_the_model_is_one_sentence(calls, monkeypatch, capsys, tmp_path):
    def fail(self: Any, model: str, **arguments: Any) -> None:
        raise RuntimeError("No CUDA\nGPUs found")

    monkeypatch.setattr(sys.modules["vllm"].LLM, "__init__", fail)
    sentence = refused(capsys, flags(bare_world(tmp_path / "w", 12), engine="vllm"))
    assert sentence.startswith(f"{TINY_FOLDER}: vLLM cannot load it (RuntimeError: No CUDA GPUs found)")
