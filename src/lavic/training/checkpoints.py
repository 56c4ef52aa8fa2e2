"""The state of a run in one file: tensors, and the rest as JSON in the file's header.

One file is renamed once, so a checkpoint is whole or absent, wherever a kill strikes. It holds the LoRA
weights, the optimizer's moments and the run's counters; sample order and dropout are functions of
(seed, step) and the schedule is one of the step, so nothing else needs keeping.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lavic.errors import OutputError
from lavic.files import write_atomic

CHECKPOINT_FILE = "checkpoint.safetensors"
_AGAIN = "Start again with --overwrite."


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done in all.
        best_loss: lowest validation loss so far (EOS included), None before the first validation.
        best_step: the step it was measured after.
        bad_validations: validations since then.
        validation_due: whether the run was stopped before or in the validation that follows ``step``.
        finished: whether the run came to its end.
        event_rows: rows of the event log that belong to this state.
        threads: CPU threads of the run; another number changes the last bits.
        identity: what must be the same for a resumed run (data, model, settings), by name.
        best_result: all figures of the best validation.
        scaler: state of the fp16 loss scaler.
        overflows: how many of the last steps in a row had a gradient that was not finite, and changed nothing.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    bad_validations: int = 0
    validation_due: bool = False
    finished: bool = False
    event_rows: int = 0
    threads: int = 0
    identity: dict[str, str] = field(default_factory=dict)
    best_result: dict[str, float] | None = None
    scaler: dict[str, float] = field(default_factory=dict)
    overflows: int = 0


def save_checkpoint(
    folder: Path, state: RunState, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Path:
    """Write the checkpoint, replacing the one before."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    path = folder / CHECKPOINT_FILE
    write_atomic(path, save(tensors, metadata={"state": json.dumps(asdict(state), sort_keys=True)}))
    return path


def read_state(folder: Path) -> RunState | None:
    """The state in a folder's checkpoint, or None where there is none.

    Raises:
        OutputError: the file is there but is no checkpoint.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            values: dict[str, Any] = json.loads(stored.metadata()["state"])
        return RunState(**values)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"is not a checkpoint that can be resumed ({error})",
            where=str(path),
            remedy=_AGAIN,
        ) from None


def restore(folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Fill weights and optimizer from the checkpoint, bit for bit; all of them or none.

    Raises:
        OutputError: it is damaged, or belongs to another model or other LoRA settings.
    """
    path = folder / CHECKPOINT_FILE
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise OutputError(f"cannot be read ({error})", where=str(path), remedy=_AGAIN) from None
    weights = {name.removeprefix("weight/"): tensor for name, tensor in stored.items() if name.startswith("weight/")}
    if weights.keys() != parameters.keys():
        raise OutputError("belongs to a run of another model", where=str(path), remedy=_AGAIN)
    if any(weights[name].shape != parameter.shape for name, parameter in parameters.items()):
        raise OutputError("belongs to a run with other LoRA settings", where=str(path), remedy=_AGAIN)
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for key, tensor in stored.items():
        if key.startswith("optimizer/"):
            _, kind, name = key.split("/", 2)
            moments[name][kind] = _placed(tensor, kind, parameters[name])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            optimizer.state[parameter] = moments[name]


def _placed(value: Tensor, kind: str, parameter: nn.Parameter) -> Tensor:
    # AdamW keeps its step counter on the CPU.
    return value if kind == "step" else value.to(parameter.device)
