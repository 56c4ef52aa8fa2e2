"""Keys and values that lie before what a language model computes: read, never changed.

The library's caches grow with every forward pass, so they would have to be copied for each micro-batch, and a layer
that is computed again for the backward pass would see itself. This one gives each layer what lies before it
together with its own, and remembers nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]
#: What the library calls the argument that carries what lies before: since 5.24, and until then.
PAST_NAMES = ("cache", "past_key_values")


class LayerPast:
    """What lies before in one layer; it has the part of the library's cache interface that layers use.

    Attributes:
        before: keys and values, each [1 or B, heads, P, head width]; None at the very start.
        record: gets keys and values with the layer's own, for passes without gradient; None keeps nothing.
    """

    def __init__(self, before: KeysValues | None, record: list[KeysValues] | None) -> None:
        self.before = before
        self.record = record

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> KeysValues:
        """The layer's own [B, heads, n, width] keys and values behind those that lie before."""
        if self.before is not None:
            keys, values = _behind(self.before[0], keys), _behind(self.before[1], values)
        if self.record is not None:
            self.record.append((keys, values))
        return keys, values


class Past:
    """What lies before, layer by layer; nothing if ``layers`` is empty."""

    def __init__(self, layers: list[KeysValues], *, record: list[KeysValues] | None = None) -> None:
        self.layers = layers
        self._record = record

    @property
    def length(self) -> int:
        """P, positions that lie before."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The same, by the name that the library asks for."""
        return self.length

    def layer(self, number: int) -> LayerPast:
        """The past of one layer."""
        return LayerPast(self.layers[number] if self.layers else None, self._record)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeysValues:
        """As of ``LayerPast``, for a layer that names itself."""
        return self.layer(layer_idx).update(keys, values)


@cache
def past_name(forward: Callable[..., Any]) -> str:
    """Which of ``PAST_NAMES`` a forward function takes."""
    return next(name for name in PAST_NAMES if name in inspect.signature(forward).parameters)


def _behind(before: Tensor, own: Tensor) -> Tensor:
    return torch.cat([before.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=2)


def recorded_past(language_model: nn.Module, embeds: Tensor, before: Past) -> Past:
    """The past of what comes after [B, n, D] input embeddings that stand behind ``before``; no gradient."""
    recorded: list[KeysValues] = []  # layers run in their order, once each
    with torch.no_grad():
        run_behind(language_model, embeds, Past(before.layers, record=recorded))
    return Past(recorded)


def run_behind(
    language_model: nn.Module,
    embeds: Tensor,
    past: Past,
    *,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """[B, n, D] input embeddings behind a past to hidden states of the same shape.

    Args:
        mask: bool, [1 or B, 1, n, P + n], True where a query may look; the causal one if None. Fewer queries than keys:
            SDPA's own causal flag would align them at the wrong end.
        position_ids: [1 or B, n]; those behind the past if None.
    """
    places = torch.arange(past.length + embeds.shape[1], device=embeds.device)
    own = places[past.length :]
    output = language_model(
        inputs_embeds=embeds,
        attention_mask=(places <= own[:, None])[None, None] if mask is None else mask,
        position_ids=own[None] if position_ids is None else position_ids,
        use_cache=False,
        **{past_name(type(language_model).forward): past},
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
