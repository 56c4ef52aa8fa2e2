"""What can be said of a checkpoint's folder better, and sooner, than transformers says it.

Its own errors often leave out which file it was, and come after minutes of loading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lavic.errors import InputError, ModelError
from lavic.files import read_json
from lavic.model.families import family_of

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth")
_JSON_FILES = (
    "generation_config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def check_folder(source: str) -> None:
    """See whether this is a folder that looks like a whole checkpoint, as far as can be seen without loading it.

    Raises:
        ModelError: it does not.
    """
    folder = Path(source)
    if not folder.exists():
        raise ModelError(
            "there is no such folder",
            where=source,
            remedy="Give a folder with a LLaVA-NeXT checkpoint, a hub name such as "
            "llava-hf/llava-v1.6-mistral-7b-hf, or `tiny`.",
        )
    if not folder.is_dir():
        raise ModelError("a model is a folder, this is a file", where=source)
    _require(folder, "config.json")
    family_of(str(_read_json(folder / "config.json").get("model_type")), source)
    _require(folder, "tokenizer.json", "tokenizer.model")
    _require(folder, "preprocessor_config.json", "processor_config.json")
    for name in _JSON_FILES:
        if (folder / name).exists():
            _read_json(folder / name)
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        pickled = [name for name in _PICKLED if (folder / name).exists()]
        raise ModelError(
            f"the weights are pickled ({pickled[0]})" if pickled else "the folder holds no *.safetensors",
            where=source,
            remedy="lavic loads safetensors only: convert the checkpoint, or download its safetensors files.",
        )
    for pipe in filter(Path.is_fifo, weights):  # would be waited for
        raise ModelError("this is a pipe, not a file", where=str(pipe))


def _require(folder: Path, *names: str) -> None:
    """One of these files must be there; the first is what most checkpoints have."""
    if not any((folder / name).exists() for name in names):
        raise ModelError(
            f"the folder holds no {names[0]}", where=str(folder), remedy="Copy the whole checkpoint folder."
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise InputError("not a JSON object")
    except InputError as error:
        reason = error.__cause__ or error.problem  # the cause, where there is one, knows line and column
        raise ModelError(
            f"cannot be read ({reason})", where=str(path), remedy="It looks half-copied: copy it again."
        ) from None
    return content


def damaged_file(source: str) -> str:
    """Which of a folder's weights files cannot be opened; the folder itself if none can be blamed."""
    for path in sorted(Path(source).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return str(path)
    return source
