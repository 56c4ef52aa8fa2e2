"""Load a LLaVA checkpoint by folder or hub name: safetensors only, every tensor placed, no remote code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from lavic.errors import ModelError
from lavic.model.checkpoint_folder import check_folder, damaged_file
from lavic.model.families import Family, family_of
from lavic.model.quantization import nf4_arguments, settle_quantized

#: ``--model tiny``: the small checkpoint that comes with the package.
TINY = "tiny"
TINY_FOLDER = Path(__file__).parent.parent / "toyshop" / "assets" / "tiny-llava-next"

#: Characters of a library's message that are passed on; some list every model there is.
MAX_REASON = 240

_CLASSES = {"llava_next": LlavaNextForConditionalGeneration, "llava": LlavaForConditionalGeneration}


@dataclass(frozen=True)
class BaseModel:
    """A loaded checkpoint, frozen and in evaluation mode.

    Attributes:
        name: hub name, ``tiny``, or a folder's last part: safe to write into results.
        source: folder or hub name that it was loaded from.
        view_size: side of a view in pixels.
        pixel_mean, pixel_std: per channel, for pixels from 0 to 1.
    """

    name: str
    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    view_size: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]


def resolve_source(name: str) -> str:
    """``tiny`` to its folder, ``~`` to the home folder; anything else as it is."""
    if name == TINY:
        return str(TINY_FOLDER)
    return str(Path.home() / name[2:]) if name.startswith("~/") else name


def public_name(name: str) -> str:
    """How results name a model: a hub name as it is, a folder by its last part."""
    if name == TINY:
        return TINY
    path = Path(resolve_source(name))
    return path.resolve().name if path.is_dir() or path.is_absolute() else name


def looks_local(source: str) -> bool:
    """Whether a model's name can only mean a folder; all else may be a name on the hub."""
    if source.startswith((".", "/", "~")) or Path(source).exists() or source.count("/") > 1:
        return True
    # weights/llava, mistyped, where there is a folder weights/.
    return "/" in source and Path(source).parent.is_dir()


def check_source(name: str) -> None:
    """See what can be seen of a model without loading it: whether a folder is there, and whole.

    Raises:
        ModelError: it is not.
    """
    source = resolve_source(name)
    if looks_local(source):
        check_folder(source)


def image_processor(source: str) -> Any:
    """The checkpoint's own picture processor, in its PIL form: torchvision is not needed."""
    with _quiet():
        # Two names for one choice: the second came in the middle of transformers 5.
        return AutoImageProcessor.from_pretrained(source, use_fast=False, backend="pil", trust_remote_code=False)


def chat_template(source: str) -> str | None:
    """The checkpoint's chat template: its processor's, else its tokenizer's, else None.

    Raises:
        ModelError: the processor's files cannot be used.
    """
    arguments = {"use_fast": False, "backend": "pil", "trust_remote_code": False}
    processor = _guarded(source, lambda: AutoProcessor.from_pretrained(source, **arguments))
    template: str | None = getattr(processor, "chat_template", None)
    return template


def load_base(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    four_bit: bool = False,
) -> BaseModel:
    """Load model, tokenizer and picture settings.

    Args:
        name: folder, hub name, or ``tiny``.
        dtype: of all weights; with ``four_bit`` of those that are not quantised.
        device: where they go.
        four_bit: the language model's weights as NF4.

    Raises:
        ModelError: not found, another class, pickled, truncated, or tensors without a place.
    """
    # A trial without memory: a configuration that describes another model than the files hold would
    # otherwise first be filled with random weights, however large.
    trial = inspect_base(name)
    arguments = nf4_arguments(dtype, torch.device(device)) if four_bit else {}
    load = partial(_from_pretrained(trial.family, trial.source), dtype=dtype, **arguments)
    model = _guarded(trial.source, load, bar=True)
    model.requires_grad_(False).eval()
    if four_bit:
        settle_quantized(model, trial.source)
    else:
        model.to(device)
    return replace(trial, model=model)


def inspect_base(name: str) -> BaseModel:
    """All that ``load_base`` looks at, without the weights: the model is on the meta device.

    Raises:
        ModelError: as ``load_base``.
    """
    source = resolve_source(name)
    check_source(name)
    config = _guarded(source, lambda: AutoConfig.from_pretrained(source, trust_remote_code=False))
    family = family_of(str(config.model_type), source)
    _check_tower(source, config)
    tokenizer = load_tokenizer(source)
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-sequence token", where=source)
    mean, std = _guarded(source, lambda: _pixel_statistics(source))
    from_pretrained = _from_pretrained(family, source)
    model, info = _guarded(
        source,
        lambda: from_pretrained(device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True),
    )
    _check_placed(source, info)
    return BaseModel(
        name=public_name(name),
        source=source,
        model=model,
        tokenizer=tokenizer,
        family=family,
        view_size=int(config.vision_config.image_size),
        pixel_mean=mean,
        pixel_std=std,
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer alone: a hub name's weights are not downloaded.

    Raises:
        ModelError: as ``load_base``.
    """
    source = resolve_source(name)
    check_source(name)
    tokenizer: PreTrainedTokenizerBase = _guarded(
        source, lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    )
    return tokenizer


def _from_pretrained(family: Family, source: str) -> Callable[..., Any]:
    """The loader of a family's class."""
    return partial(_CLASSES[family.model_type].from_pretrained, source, use_safetensors=True, trust_remote_code=False)


def _pixel_statistics(source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the tower's input, per channel."""
    processor = image_processor(source)
    return tuple(map(float, processor.image_mean)), tuple(map(float, processor.image_std))


@contextmanager
def _quiet(*, bar: bool = False) -> Iterator[None]:
    """Without transformers' own remarks (what matters becomes an error); a bar at most in a terminal."""
    level, had_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    if not bar or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bar:
            transformers_logging.enable_progress_bar()


def _check_tower(source: str, config: Any) -> None:
    """The five tokens are [CLS] states; of the towers in this family only CLIP's has one."""
    kind = getattr(getattr(config, "vision_config", None), "model_type", None)
    if kind != "clip_vision_model":
        raise ModelError(
            f"its vision tower is of the type {kind!r}, not CLIP",
            where=source,
            remedy="lavic needs a LLaVA checkpoint with a CLIP tower.",
        )


def _guarded(source: str, load: Callable[[], Any], *, bar: bool = False) -> Any:
    """Call a loader of transformers and turn its many errors into one sentence."""
    try:
        with _quiet(bar=bar):
            return load()
    except SafetensorError as error:
        raise ModelError(
            f"the weights are damaged ({error})",
            where=damaged_file(source),
            remedy="It looks half-copied: copy it again.",
        ) from None
    except Exception as error:
        # A border: these files are foreign, and every loader raises errors of its own.
        reason = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
        reason = reason if len(reason) <= MAX_REASON else reason[:MAX_REASON] + " ..."
        raise ModelError(f"the checkpoint cannot be loaded ({reason})", where=source, remedy=_remedy(source)) from None


def _remedy(source: str) -> str:
    if Path(source).is_dir():
        return "It looks incomplete or damaged: copy the whole checkpoint folder again."
    switched_off = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    offline = " The hub is switched off (HF_HUB_OFFLINE)." if switched_off else ""
    return f"Give a folder or a hub name of a LLaVA-NeXT checkpoint.{offline}"


def _check_placed(source: str, info: dict[str, Any]) -> None:
    """Every tensor of the files has a place in the model, and every place got its tensor."""
    missing = sorted(info.get("missing_keys", ()))
    unexpected = sorted(info.get("unexpected_keys", ()))
    mismatched = sorted(str(name) for name, *_ in info.get("mismatched_keys", ()))
    if not (missing or unexpected or mismatched):
        return
    examples = (missing + unexpected + mismatched)[:1]
    raise ModelError(
        f"the checkpoint does not fit its config.json: {len(missing)} tensors missing, {len(unexpected)} "
        f"without a place, {len(mismatched)} of another shape (for example {examples[0]})",
        where=source,
        remedy="It looks incomplete or of another model: download it again.",
    )
