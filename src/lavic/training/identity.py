"""What makes two runs the same run: a run is only resumed with the data and settings it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lavic.errors import OutputError
from lavic.files import sha256_file
from lavic.model.marks import sampled_values
from lavic.training.checkpoints import RunState

#: What names begin with whose values are shown.
_SPOKEN = ("--", "number of ")


def identity_of(
    settings: Mapping[str, Any], *, free: Iterable[str], files: Mapping[str, Path | None]
) -> dict[str, str]:
    """What is known before anything is loaded, by the name that a user knows it under.

    Args:
        settings: all settings of the run.
        free: names of settings that do not change the result.
        files: flag -> file whose content counts, None where the flag is not given.

    Raises:
        InputError: a file cannot be read.
    """
    excluded = set(free)
    identity = {f"--{name}": str(value) for name, value in settings.items() if name not in excluded}
    for flag, path in files.items():
        identity[f"content of {flag}"] = "" if path is None else sha256_file(path)
    return identity


def names_mark(names: Iterable[str]) -> str:
    """One value for a list of names in their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def weights_mark(model: nn.Module) -> str:
    """One value for a model's weights: names, shapes, types and some values of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(sampled_values(tensor))
    return digest.hexdigest()


def differences(known: Mapping[str, str], wanted: Mapping[str, str], names: Iterable[str]) -> str:
    """What differs between two identities, of the given names in their order; "" if nothing does."""
    return ", ".join(
        # The values of contents are marks, which say nothing to a reader.
        f"{name} (was {known.get(name)}, is {wanted.get(name)})" if name.startswith(_SPOKEN) else name
        for name in names
        if known.get(name) != wanted.get(name)
    )


def check_same_run(
    state: RunState,
    identity: Mapping[str, str],
    folder: Path,
    warn: Callable[[str], None],
    *,
    whole: bool = True,
) -> None:
    """Refuse to resume another run; warn if only the last bits will differ.

    Args:
        state: of the run that ``folder`` holds.
        identity: of the run that wants to go on.
        folder: named in the message.
        warn: told of another number of threads.
        whole: False compares only what ``identity`` holds so far.

    Raises:
        OutputError: names everything that differs.
    """
    known = state.identity
    names = identity.keys() | known.keys() if whole else identity.keys()
    different = differences(known, identity, sorted(names))
    if different:
        raise OutputError(
            f"{folder}/ holds a run with other settings or data: {different}",
            remedy="Resume with the same ones, or start again with --overwrite.",
        )
    if whole and state.threads != torch.get_num_threads():
        warn(
            f"The run began with {state.threads} CPU threads and goes on with {torch.get_num_threads()}: "
            "the last bits of its result will differ."
        )
