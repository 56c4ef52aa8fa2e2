"""Did it work? The success criteria, and the file that records each epoch's validation."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lavic.console import Console
from lavic.distill.config import DistillSettings
from lavic.distill.evaluation import ValidationLoss
from lavic.files import write_atomic
from lavic.model.adapters import WEIGHTS_FILE

LIMITS = ("max_val_loss", "max_val_perplexity")
#: Language models below this many parameters are miniatures: the published thresholds say nothing there.
REAL_MODEL_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class Criterion:
    """One condition; ``holds`` is None where it is not judged."""

    name: str
    expected: str
    found: str
    holds: bool | None


def write_val_metrics(folder: Path, epoch: int, result: ValidationLoss) -> Path:
    """``val_metrics_epoch_N.txt`` (N from 1); no times, so equal runs give equal files."""
    path = folder / f"val_metrics_epoch_{epoch}.txt"
    lines = [
        f"Val Loss: {result.loss_without_eos:.6f}",
        f"Val PPL: {result.perplexity_without_eos:.6f}",
        f"Val Loss with EOS: {result.loss:.6f}",
        f"Val PPL with EOS: {result.perplexity:.6f}",
        f"Tokens: {result.tokens}",
        f"Samples: {result.samples}",
    ]
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def judge(
    adapter_folder: Path,
    result: ValidationLoss | None,
    *,
    trainable_parameters: int,
    model_parameters: int,
    max_val_loss: float,
    max_val_perplexity: float,
    adapter_size_mb: float | None,
    given: Container[str] = (),
) -> list[Criterion]:
    """The criteria in order: adapter there, of the expected size, loss and perplexity low enough.

    Args:
        result: validation of the best adapter; the criteria mean the figures without EOS, as published.
        model_parameters: size of the whole model; miniatures are judged by the limits in ``given`` alone.
        given: which of ``LIMITS`` the user chose.
    """
    path = adapter_folder / WEIGHTS_FILE
    size = path.stat().st_size / 1e6 if path.exists() else 0.0
    expected_mb = adapter_size_mb or trainable_parameters * 4 / 1e6
    criteria = [
        Criterion("adapter saved", str(path), "yes" if path.exists() else "no", path.exists()),
        Criterion("adapter size", f"{expected_mb:.1f} MB", f"{size:.1f} MB", _near(size, expected_mb)),
    ]
    real = model_parameters >= REAL_MODEL_PARAMETERS
    for name, setting, limit, found in (
        ("val loss", "max_val_loss", max_val_loss, result.loss_without_eos if result else None),
        ("val perplexity", "max_val_perplexity", max_val_perplexity, result.perplexity_without_eos if result else None),
    ):
        shown = "not measured" if found is None else f"{found:.4f}"
        holds = None if found is None or not (real or setting in given) else found < limit
        criteria.append(Criterion(name, f"< {limit:g}", shown, holds))
    return criteria


def judge_adapter(
    settings: DistillSettings,
    folder: Path,
    result: ValidationLoss | None,
    model: nn.Module,
    *,
    trainable_parameters: int,
) -> list[Criterion]:
    """The same for an adapter of a model, with the limits of a run's settings."""
    usual = DistillSettings.model_fields
    return judge(
        folder,
        result,
        trainable_parameters=trainable_parameters,
        model_parameters=sum(parameter.numel() for parameter in model.parameters()),
        max_val_loss=settings.max_val_loss,
        max_val_perplexity=settings.max_val_perplexity,
        adapter_size_mb=settings.adapter_size_mb,
        # A saved configuration names all limits, also those that nobody chose.
        given=[name for name in LIMITS if getattr(settings, name) != usual[name].default],
    )


def exit_code(settings: DistillSettings, criteria: list[Criterion]) -> int:
    """1 if the criteria are to decide, and one is missed."""
    return 1 if settings.require_criteria and not met(criteria) else 0


def _near(found: float, expected: float) -> bool:
    # The header with the tensors' names takes a few per cent of a small adapter.
    return expected * 0.95 <= found <= expected * 1.05 + 0.1


def met(criteria: list[Criterion]) -> bool:
    """Whether every judged criterion holds."""
    return all(criterion.holds is not False for criterion in criteria)


_WORDS = {True: "yes", False: "NO", None: "not judged"}


def log_criteria(criteria: list[Criterion], console: Console) -> None:
    """The closing check as lines of the log."""
    for each in criteria:
        holds = _WORDS[each.holds]
        console.log(f"criterion: {each.name}: expected {each.expected}, found {each.found}, holds: {holds}")


def print_criteria(criteria: list[Criterion], console: Console) -> None:
    """The closing check as a table."""
    rows = [[criterion.name, criterion.expected, criterion.found, _WORDS[criterion.holds]] for criterion in criteria]
    console.table(rows, header=["criterion", "expected", "found", "holds"])
    if any(criterion.holds is None for criterion in criteria):
        console.info(
            "Loss and perplexity are judged for models of a billion parameters and more, and where a limit is given."
        )
