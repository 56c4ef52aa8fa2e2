"""LoRA on the vision side or the language side: which modules, attaching, saving, loading any key layout, merging."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from lavic.errors import AdapterError, InputError
from lavic.files import open_regular, read_json, write_atomic
from lavic.model.load import public_name

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
VISION_PARTS = ("vision_tower", "multi_modal_projector")
LANGUAGE_PARTS = ("language_model", "lm_head")
_PARTS = (*VISION_PARTS, *LANGUAGE_PARTS)
#: What PEFT 0.6 (2023) knew already; older versions refuse a file with keys that came later.
_CONFIG_KEYS = (
    "alpha_pattern",
    "auto_mapping",
    "bias",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
)
_NOT_PLAIN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scale and dropout; the published values are the defaults."""

    r: int = 8
    alpha: int = 32
    dropout: float = 0.1


def vision_linears(model: PreTrainedModel) -> list[str]:
    """Names of every ``nn.Linear`` of vision tower and projector (146 in the 7B)."""
    return [f"model.{part}.{name}" for part in VISION_PARTS for name in _linears(model.get_submodule(f"model.{part}"))]


def language_linears(model: PreTrainedModel, *, lm_head: bool = False) -> list[str]:
    """Names of every ``nn.Linear`` of the language model (224 in the 7B), and of ``lm_head`` if asked for."""
    names = [f"model.language_model.{name}" for name in _linears(model.get_submodule("model.language_model"))]
    return [*names, "lm_head"] if lm_head else names


def _linears(root: nn.Module) -> list[str]:
    return [name for name, module in root.named_modules() if isinstance(module, nn.Linear)]


def target_pattern(names: Iterable[str]) -> str:
    """A pattern for PEFT that matches these modules in transformers of any age, and nothing elsewhere."""
    leaves: dict[str, set[str]] = {part: set() for part in _PARTS}
    for name in names:
        for part in _PARTS:
            if f"{part}." in name:
                leaves[part].add(name.rsplit(".", 1)[1])
    parts = {part: "|".join(sorted(found)) for part, found in leaves.items() if found}
    patterns = [rf".*\b{part}\.(?:.*\.)?(?:{found})" for part, found in parts.items()]
    return "|".join([*patterns, r"(?:.*\.)?lm_head"] if "lm_head" in names else patterns)


def attach_vision_lora(model: PreTrainedModel, settings: LoraSettings, *, seed: int = 0) -> PeftModel:
    """Add LoRA to every linear layer of the vision side; see ``attach_lora``."""
    return attach_lora(model, vision_linears(model), settings, seed=seed)


def attach_language_lora(
    model: PreTrainedModel, settings: LoraSettings, *, seed: int = 0, lm_head: bool = False
) -> PeftModel:
    """Add LoRA to every linear layer of the language model, and to ``lm_head`` if asked for; see ``attach_lora``."""
    return attach_lora(model, language_linears(model, lm_head=lm_head), settings, seed=seed)


def attach_lora(model: PreTrainedModel, names: list[str], settings: LoraSettings, *, seed: int = 0) -> PeftModel:
    """Add LoRA (fp32, start values from the seed) to the linear layers of these names.

    ``model`` is changed in place and is the returned model's base; everything else stays frozen. All is left
    in evaluation mode: ``set_lora_dropout`` switches on what training needs.
    """
    pattern = target_pattern(names)
    matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    assert sorted(matched) == sorted(names), "the pattern matches exactly these linear layers"
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=pattern,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks for an attribute that transformers 5.23 calls by a new name.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=True)  # fp32 on a bf16 or fp16 base
    return wrapped.eval()


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, in a fixed order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def set_lora_dropout(model: nn.Module, active: bool) -> None:
    """Switch only the dropout in front of LoRA; ``train()`` would switch the frozen parts too."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(active)


def trainable_by_part(model: nn.Module) -> dict[str, int]:
    """Trainable parameters of vision tower, projector and language model."""
    counts = dict.fromkeys(_PARTS, 0)
    for name, parameter in model.named_parameters():
        part = next((part for part in counts if f".{part}." in f".{name}."), None)
        if parameter.requires_grad and part:
            counts[part] += parameter.numel()
    return counts


# -- saving --------------------------------------------------------------------------------------------------


def adapter_bytes(model: PeftModel) -> bytes:
    """The adapter's tensors as a safetensors file, under the keys that stock PEFT reads."""
    state = sorted(get_peft_model_state_dict(model, save_embedding_layers=False).items())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state}
    return save(tensors, metadata={"format": "pt"})


def adapter_config(model: PeftModel, base_name: str) -> str:
    """``adapter_config.json``; names the base as the user did, never as a path of this machine."""
    full = model.peft_config["default"].to_dict()
    config = {key: full[key] for key in _CONFIG_KEYS}
    config.update(base_model_name_or_path=public_name(base_name), inference_mode=True, task_type=None)
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def save_adapter(model: PeftModel, folder: Path, *, base_name: str, card: str) -> None:
    """Write weights, configuration and model card, each file whole or not at all; the weights come last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / CONFIG_FILE, adapter_config(model, base_name))
    write_atomic(folder / "README.md", card)
    write_atomic(folder / WEIGHTS_FILE, adapter_bytes(model))


def fingerprint(folder: Path) -> str:
    """First 8 hex digits of a SHA-256 over the weights and their scale: what decides what the adapter does.

    Raises:
        AdapterError: the folder holds no adapter, or its weights cannot be read.
    """
    settings = read_lora_settings(folder)
    with _open_weights(folder) as stream:
        digest = hashlib.file_digest(stream, "sha256")
    digest.update(f"scale {settings.alpha / settings.r!r}".encode())
    return digest.hexdigest()[:8]


# -- loading -------------------------------------------------------------------------------------------------


def canonical_key(key: str) -> str:
    """One name for a tensor under any of the three key layouts.

    ``base_model.model.vision_tower.vision_model.X`` (transformers before 4.52),
    ``base_model.model.model.vision_tower.vision_model.X`` (4.52 on) and
    ``base_model.model.model.vision_tower.X`` (5.x) all become ``vision_tower.X``; likewise
    ``language_model.model.X`` and ``language_model.X``, ``language_model.lm_head.X`` and ``lm_head.X``.
    """
    key = re.sub(r"^(base_model\.)?(model\.)*", "", key)
    key = key.replace("vision_tower.vision_model.", "vision_tower.")
    key = re.sub(r"^language_model\.(model|(?=lm_head))\.?", lambda match: "language_model." if match[1] else "", key)
    return re.sub(r"\.(lora_[AB])\.default\.", r".\1.", key)


def read_lora_settings(folder: Path) -> LoraSettings:
    """Rank, scale and dropout of a saved adapter.

    Raises:
        AdapterError: the folder is no LoRA adapter, or of a kind that lavic cannot place.
    """
    path = folder / CONFIG_FILE
    if not folder.is_dir() or not path.exists():
        raise AdapterError(f"no adapter here ({CONFIG_FILE} is missing)", where=str(folder))
    try:
        config = read_json(path)
        kind, rank, alpha = config["peft_type"], config["r"], config["lora_alpha"]
        dropout = config.get("lora_dropout") or 0.0
        if not (rank == int(rank) > 0 and alpha == int(alpha) and 0 <= dropout < 1):
            raise ValueError(f"r {rank!r}, lora_alpha {alpha!r}, lora_dropout {dropout!r}")
    except InputError as error:
        reason = error.__cause__ or error.problem
        raise AdapterError(f"is not the configuration of an adapter ({reason})", where=str(path)) from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise AdapterError(f"is not the configuration of an adapter ({error!r})", where=str(path)) from None
    odd = [name for name in _NOT_PLAIN if config.get(name)]
    if kind != "LORA" or odd:
        raise AdapterError(
            f"the adapter is of the kind {kind} {' '.join(odd)}".rstrip(),
            where=str(path),
            remedy="lavic reads plain LoRA.",
        )
    return LoraSettings(int(rank), int(alpha), float(dropout))


def _open_weights(folder: Path) -> BufferedReader:
    path = folder / WEIGHTS_FILE
    if not path.exists():
        pickled = (folder / "adapter_model.bin").exists()
        raise AdapterError(
            "the weights are pickled (adapter_model.bin)" if pickled else f"{WEIGHTS_FILE} is missing",
            where=str(folder),
            remedy="lavic loads safetensors only.",
        )
    try:
        return open_regular(path)
    except InputError as error:
        raise AdapterError(f"cannot be read ({error.problem})", where=str(path)) from None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    _open_weights(folder).close()  # safetensors opens by name, and would wait for a pipe
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> AdapterError:
    return AdapterError(f"is damaged ({error})", where=str(path), remedy="It looks half-copied: copy it again.")


def check_vision_adapter(folder: Path) -> None:
    """See that a saved adapter is one of stage 1, by its tensors' names alone: no model is needed.

    Raises:
        AdapterError: the folder holds no adapter, its weights cannot be read, or none of them is of the vision side.
    """
    read_lora_settings(folder)
    _open_weights(folder).close()
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, "pt") as weights:
            parts = {canonical_key(key).partition(".")[0] for key in weights.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    if not parts & {*VISION_PARTS}:
        raise AdapterError(
            "there is no LoRA on the vision tower in it, so it is no stage-1 adapter",
            where=str(folder),
            remedy="Give the vision_lora_adapter_best folder that lavic distill wrote.",
        )


def load_vision_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Attach LoRA as the adapter was trained and fill it, whatever layout its keys have.

    Raises:
        AdapterError: not an adapter, damaged, a tensor without a place, a LoRA module left unfilled,
            or another shape (an adapter of another model).
    """
    settings, weights = read_lora_settings(folder), _read_weights(folder)
    wrapped = attach_vision_lora(model, settings)
    fill_adapter(wrapped, weights, where=str(folder))
    return wrapped


def load_language_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The same for an adapter of the language model, with ``lm_head`` or without; raises the same."""
    settings, weights = read_lora_settings(folder), _read_weights(folder)
    lm_head = any(canonical_key(key).startswith("lm_head.") for key in weights)
    wrapped = attach_language_lora(model, settings, lm_head=lm_head)
    fill_adapter(wrapped, weights, where=str(folder))
    return wrapped


def fill_adapter(model: PeftModel, weights: dict[str, Tensor], *, where: str) -> None:
    """Copy every tensor to its place; raises as ``load_vision_adapter`` does, and changes nothing then."""
    places = {canonical_key(name): place for name, place in model.named_parameters() if "lora_" in name}
    given = {canonical_key(key): tensor for key, tensor in weights.items()}
    homeless = sorted(given.keys() - places.keys())
    unfilled = sorted(places.keys() - given.keys())
    reshaped = sorted(key for key in given.keys() & places.keys() if given[key].shape != places[key].shape)
    if homeless or unfilled or reshaped or len(given) != len(weights):
        example = (reshaped or homeless or unfilled or ["a key that stands twice"])[0]
        raise AdapterError(
            f"the adapter is of another model: {len(homeless)} tensors have no place, {len(unfilled)} LoRA "
            f"tensors stay unfilled, {len(reshaped)} have another shape (for example {example})",
            where=where,
            remedy="Give the model that the adapter was trained on.",
        )
    with torch.no_grad():
        for key, parameter in places.items():
            parameter.copy_(given[key].to(parameter.dtype))


def merge(model: PeftModel) -> PreTrainedModel:
    """The plain model with LoRA added into its weights (the sum is taken in fp32)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged: PreTrainedModel = model.merge_and_unload()
    return merged
