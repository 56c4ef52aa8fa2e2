"""The teacher in vLLM (the extra ``lavic[vllm]``), called through its documented offline interface.

``LLM(model=..., limit_mm_per_prompt={"image": 1})`` and ``LLM.generate`` with, per picture, the prompt's ids with
one image token (``prompt_token_ids``), the picture (``multi_modal_data``) and its ``SamplingParams``.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

from lavic.describe.engines import Answer, Request, Speech
from lavic.describe.lengths import image_token_count
from lavic.errors import ConfigError, ModelError
from lavic.model.load import BaseModel
from lavic.model.sequences import Sequence

#: The most image tokens of LLaVA-v1.6 are 2,928; the rest is prompt.
PROMPT_ROOM = 3584
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def require_vllm() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed, or cannot be loaded on this machine.
    """
    try:
        return importlib.import_module("vllm")
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise ConfigError(f"vLLM cannot be loaded ({error})", where="--engine vllm") from error
        raise ConfigError(
            "vLLM is not installed",
            where="--engine vllm",
            remedy="Install it with `pip install lavic[vllm]` (it needs an NVIDIA GPU), or leave the flag out.",
        ) from None
    except Exception as error:
        # A border: its import looks for a GPU and compiled parts, and fails in many ways.
        reason = " ".join(str(error).split())[:240]
        raise ConfigError(f"vLLM cannot be loaded ({type(error).__name__}: {reason})", where="--engine vllm") from error


class VllmEngine:
    """vLLM's ``LLM`` with one prompt; see ``lavic.describe.engines.Engine``."""

    def __init__(self, base: BaseModel, prompt: Sequence, speech: Speech, *, precision: str, batch_size: int) -> None:
        """``base`` is ``inspect_base``'s: its weights are on the meta device, vLLM loads its own."""
        self._vllm = require_vllm()
        self._base, self._speech = base, speech
        self._ids = list(prompt.input_ids)
        try:
            self._model = self._vllm.LLM(
                model=base.source,
                dtype=_DTYPES[precision],
                max_model_len=min(_positions(base), PROMPT_ROOM + speech.max_new_tokens),
                max_num_seqs=batch_size,
                limit_mm_per_prompt={"image": 1},
                trust_remote_code=False,
            )
        except Exception as error:
            # A border: another program's start, which fails for reasons of the machine.
            reason = " ".join(str(error).split())[:240]
            raise ModelError(f"vLLM cannot load it ({type(error).__name__}: {reason})", where=base.source) from error

    @property
    def weights(self) -> str:
        """SHA-256 of the configuration and of the names and sizes of the weights: vLLM keeps them to itself."""
        folder = Path(self._base.source)
        digest = hashlib.sha256(self._base.model.config.to_json_string().encode())
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def image_tokens(self, size: tuple[int, int]) -> int:
        """See ``Engine``."""
        return image_token_count(self._base.model.config, size)

    def describe(self, requests: Rows[Request]) -> list[Answer]:
        """See ``Engine``."""
        prompts = [
            {"prompt_token_ids": self._ids, "multi_modal_data": {"image": request.image}} for request in requests
        ]
        params = [
            self._vllm.SamplingParams(
                temperature=self._speech.temperature,
                top_p=self._speech.top_p,
                max_tokens=self._speech.max_new_tokens,
                seed=request.seed,
            )
            for request in requests
        ]
        outputs = self._model.generate(prompts, sampling_params=params, use_tqdm=False)
        return [_answer(output.outputs[0]) for output in outputs]


def _answer(completion: Any) -> Answer:
    cut_off = completion.finish_reason == "length"
    return Answer(completion.text.strip(), len(completion.token_ids) - (not cut_off), cut_off)


def _positions(base: BaseModel) -> int:
    return int(base.model.config.get_text_config().max_position_embeddings)
