"""How the tiny model is trained: Muon for matrices inside the networks, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Matrices that are tables or heads, not maps between hidden states.
_TABLES = ("embed", "lm_head", "words")


class Optimizers:
    """Both optimizers, stepped together.

    Args:
        named: parameters with names that tell embeddings and heads from the rest.
        matrix_rate: learning rate of Muon; None leaves everything to AdamW.
        other_rate: learning rate of AdamW.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], *, matrix_rate: float | None, other_rate: float
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            inside = parameter.dim() == 2 and not any(table in name for table in _TABLES)
            (matrices if inside and matrix_rate is not None else others).append(parameter)
        self._parameters = [*matrices, *others]
        adamw = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.01)
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, other_rate)]
        if matrix_rate is not None:
            muon = torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            self._optimizers.append((muon, matrix_rate))

    def step(self, loss: Tensor, factor: float) -> None:
        """Backward, clip, step; ``factor`` scales both learning rates."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
