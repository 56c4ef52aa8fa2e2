"""What makes two runs the same run: a run is only resumed with the data and settings it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from lavic.errors import OutputError
from lavic.files import sha256_file
from lavic.training.checkpoints import RunState


def identity_of(
    settings: Mapping[str, Any], *, free: Iterable[str], files: Mapping[str, Path], samples: Iterable[str]
) -> dict[str, str]:
    """Facts by the name that a user knows them under.

    Args:
        settings: all settings of the run.
        free: names of settings that do not change the result.
        files: flag -> file whose content counts.
        samples: names of the samples in order.
    """
    excluded = set(free)
    identity = {f"--{name}": str(value) for name, value in settings.items() if name not in excluded}
    identity.update({f"content of {flag}": sha256_file(path) for flag, path in files.items()})
    identity["pictures that are there"] = hashlib.sha256("\n".join(samples).encode()).hexdigest()
    return identity


def check_same_run(state: RunState, identity: Mapping[str, str], folder: Path, warn: Callable[[str], None]) -> None:
    """Refuse to resume another run; warn if only the last bits will differ.

    Raises:
        OutputError: names everything that differs.
    """
    known = state.identity
    different = sorted(name for name in identity.keys() | known.keys() if identity.get(name) != known.get(name))
    if different:
        shown = ", ".join(
            f"{name} (was {known.get(name)}, is {identity.get(name)})" if name.startswith("--") else name
            for name in different
        )
        raise OutputError(
            f"{folder}/ holds a run with other settings or data: {shown}",
            remedy="Resume with the same ones, or start again with --overwrite.",
        )
    if state.threads != torch.get_num_threads():
        warn(
            f"The run began with {state.threads} CPU threads and goes on with {torch.get_num_threads()}: "
            "the last bits of its result will differ."
        )
