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
from safetensors.torch import save
from torch import Tensor, nn

from lavic.errors import OutputError
from lavic.files import write_atomic

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done in all.
        best_loss: lowest validation loss so far (EOS included), None before the first validation.
        best_step: the step it was measured after.
        bad_validations: validations since then.
        finished: whether the run came to its end.
        event_rows: rows of the event log that belong to this state.
        threads: CPU threads of the run; another number changes the last bits.
        identity: what must be the same for a resumed run (data, model, settings), by name.
        best_result: all figures of the best validation.
        scaler: state of the fp16 loss scaler.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    bad_validations: int = 0
    finished: bool = False
    event_rows: int = 0
    threads: int = 0
    identity: dict[str, str] = field(default_factory=dict)
    best_result: dict[str, float] | None = None
    scaler: dict[str, float] = field(default_factory=dict)


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
            remedy="Start again with --overwrite.",
        ) from None


def restore(folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Fill weights and optimizer from the checkpoint, bit for bit.

    Raises:
        OutputError: it belongs to another model or other LoRA settings.
    """
    path = folder / CHECKPOINT_FILE
    with safe_open(path, framework="pt") as stored:
        keys = set(stored.keys())
        expected = {f"weight/{name}" for name in parameters}
        if {key for key in keys if key.startswith("weight/")} != expected:
            raise OutputError(
                "belongs to a run of another model", where=str(path), remedy="Start again with --overwrite."
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                weight = stored.get_tensor(f"weight/{name}")
                if weight.shape != parameter.shape:
                    raise OutputError("belongs to a run with other LoRA settings", where=str(path))
                parameter.copy_(weight)
                optimizer.state[parameter] = {
                    key.split("/", 2)[1]: _placed(stored.get_tensor(key), key, parameter)
                    for key in sorted(keys)
                    if key.startswith("optimizer/") and key.split("/", 2)[2] == name
                }


def _placed(value: Tensor, key: str, parameter: nn.Parameter) -> Tensor:
    # AdamW keeps its step counter on the CPU.
    return value if key.startswith("optimizer/step/") else value.to(parameter.device)
