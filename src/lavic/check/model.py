"""The model: whether it is here, whole, of a kind that lavic takes, and how large. The network is never touched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from lavic.check.findings import Finding, gigabytes, no_go, ok, refused, warning
from lavic.errors import ModelError
from lavic.model.adapters import VISION_PARTS, language_linears, vision_linears
from lavic.model.load import BaseModel, inspect_base, looks_local, resolve_source


@dataclass(frozen=True)
class ModelFacts:
    """What the estimates need to know of a model that was built on the meta device.

    Attributes:
        parameters: of all parts.
        vision_parameters: of tower and projector.
        file_bytes: of its safetensors files.
    """

    base: BaseModel
    parameters: int
    vision_parameters: int
    file_bytes: int

    def trainable(self, rank: int) -> int:
        """LoRA parameters of a rank on the vision side."""
        return self._lora(vision_linears(self.base.model), rank)

    def trainable_language(self, rank: int, *, lm_head: bool) -> int:
        """LoRA parameters of a rank on the language model, and on its output layer if asked for."""
        return self._lora(language_linears(self.base.model, lm_head=lm_head), rank)

    def _lora(self, names: list[str], rank: int) -> int:
        """r (a + b) for each matrix of a x b."""
        shapes = [self.base.model.get_submodule(name).weight.shape for name in names]
        return sum(rank * (int(rows) + int(columns)) for rows, columns in shapes)


def look_at_model(name: str) -> tuple[list[Finding], ModelFacts | None]:
    """The rows of the table, and the facts if the model is here."""
    source = resolve_source(name)
    if not looks_local(source):
        folder, elsewhere = _in_cache(source)
        if folder is None:
            return [elsewhere], None
        source = str(folder)
    try:
        base = inspect_base(source)
    except ModelError as error:
        if source != resolve_source(name) and not _switched_off():
            # A download that broke off: the run fetches the rest.
            found = f"{name}: not whole in the local cache ({error.problem})"
            return [warning("model", found, remedy=_fetch(name))], None
        return [refused("model", error)], None
    facts = _facts(base, source)
    return [
        ok(
            "model",
            f"{name if name != source else base.name}: {type(base.model).__name__}",
            f"{facts.parameters / 1e6:,.1f} million parameters, {gigabytes(facts.file_bytes)} of safetensors, "
            "every tensor placed",
        ),
        ok("tokenizer", f"{type(base.tokenizer).__name__}, {len(base.tokenizer):,} tokens; {base.family.views} views"),
    ], facts


def _facts(base: BaseModel, source: str) -> ModelFacts:
    sizes = {"all": 0, "vision": 0}
    for key, parameter in base.model.named_parameters():
        sizes["all"] += parameter.numel()
        sizes["vision"] += parameter.numel() if any(f".{part}." in f".{key}." for part in VISION_PARTS) else 0
    weights = sum(path.stat().st_size for path in Path(source).glob("*.safetensors"))
    return ModelFacts(base, sizes["all"], sizes["vision"], weights)


def _in_cache(name: str) -> tuple[Path | None, Finding]:
    """The folder of a hub model in the local cache, or None and the row that says so."""
    try:
        path = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        remedy = "Give a folder, a hub name such as llava-hf/llava-v1.6-mistral-7b-hf, or `tiny`."
        return None, no_go("model", f"{name!r} is neither a folder nor a possible hub name", remedy=remedy)
    if isinstance(path, str):
        return Path(path).parent, ok("model", name)
    if _switched_off():
        return None, no_go(
            "model",
            f"{name}: not on this machine, and the hub is switched off (HF_HUB_OFFLINE)",
            remedy=f"Unset HF_HUB_OFFLINE, or give the folder of a copy. {_fetch(name)}",
        )
    found = f"{name}: not on this machine; it will be downloaded, size unknown"
    return None, warning("model", found, remedy=f"{_fetch(name)} Until then tokens and memory cannot be checked.")


def _fetch(name: str) -> str:
    return f"Download it beforehand: hf download {name}."


def _switched_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
