"""The language model's last layer, computed no further than it is looked at.

Behind a prompt that is scored only its keys and values are read; of a sample that is trained on only the states that
predict an answer are. Neither needs the last layer's queries and MLP at all positions: nearly one of a 7B's 32 layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, rotate_half
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from lavic.model.past import KeysValues, Past, past_name, recorded_past


def prompt_past(language_model: nn.Module, embeds: Tensor, before: Past) -> Past:
    """What ``recorded_past`` gives, bit for bit, with nothing but keys and values of the last layer.

    Args:
        embeds: [B, n, D] input embeddings behind ``before``; none are left where all of the prompt is shared.
    """
    if embeds.shape[1] == 0:
        return before
    if not _is_known(language_model):
        return recorded_past(language_model, embeds, before)
    recorded: list[KeysValues] = []
    past = Past(before.layers, record=recorded)
    places = torch.arange(past.length + embeds.shape[1], device=embeds.device)
    own = places[past.length :]
    with torch.no_grad():
        mask = (places <= own[:, None])[None, None]
        hidden, turns = _through_all_but_the_last(language_model, embeds, own[None], mask, past)
        layers = _layers(language_model)
        past.update(*_keys_and_values(layers[-1], hidden, turns), len(layers) - 1)
    return Past(recorded)


def states_at(language_model: nn.Module, embeds: Tensor, wanted: Tensor) -> Tensor:
    """[B, n, D] input embeddings, padded on the right, to hidden states of that shape: zeros where they are not wanted.

    Args:
        wanted: [B, n] bool.
    """
    window = getattr(language_model.config, "sliding_window", None)
    if not _is_known(language_model) or (window is not None and window < embeds.shape[1]):
        whole: Tensor = language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return whole
    places = torch.arange(embeds.shape[1], device=embeds.device)
    # Without a mask attention is causal, and padding lies behind all that is wanted.
    hidden, turns = _through_all_but_the_last(language_model, embeds, places[None], None, None)
    columns, there = _columns(wanted)
    rows = torch.arange(len(columns), device=columns.device)[:, None].expand_as(columns)
    layer = _layers(language_model)[-1]
    # The wanted positions come once more, behind all positions; they look at these, never at each other.
    past = Past([_keys_and_values(layer, hidden, turns)] * len(_layers(language_model)))
    before = places <= columns[..., None]
    states: Tensor = layer(
        hidden[rows, columns],
        attention_mask=torch.cat([before, before.new_zeros(*columns.shape, columns.shape[1])], dim=2)[:, None],
        position_ids=columns,
        position_embeddings=tuple(turn[0, columns] for turn in turns),
        use_cache=False,
        **{past_name(type(layer).forward): past},
    )
    states = language_model.norm(states)  # type: ignore[operator]
    return torch.zeros_like(hidden).index_put((rows[there], columns[there]), states[there])


def _layers(language_model: nn.Module) -> list[nn.Module]:
    return list(language_model.layers)  # type: ignore[arg-type]


def _is_known(language_model: nn.Module) -> bool:
    """Whether the parts of its last layer can be computed one by one from outside."""
    return isinstance(_layers(language_model)[-1], LlamaDecoderLayer | MistralDecoderLayer)


def _through_all_but_the_last(
    language_model: nn.Module, embeds: Tensor, position_ids: Tensor, mask: Tensor | None, past: Past | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """[B, n, D] states in front of the last layer; [1, n, head width] cosines and sines of the positions."""
    turns: tuple[Tensor, Tensor] = language_model.rotary_emb(embeds, position_ids=position_ids)  # type: ignore[operator]
    hidden = embeds
    for layer in _layers(language_model)[:-1]:
        hidden = layer(
            hidden,
            attention_mask=mask,
            position_ids=position_ids,
            position_embeddings=turns,
            use_cache=False,
            **{past_name(type(layer).forward): past},
        )
    return hidden, turns


def _keys_and_values(layer: nn.Module, hidden: Tensor, turns: tuple[Tensor, Tensor]) -> KeysValues:
    """One layer's own, [B, heads, n, head width] each."""
    attention: nn.Module = layer.self_attn  # type: ignore[assignment]
    normed: Tensor = layer.input_layernorm(hidden)  # type: ignore[operator]
    heads = (*normed.shape[:-1], -1, int(attention.head_dim))  # type: ignore[arg-type]
    keys, values = (
        projection(normed).view(heads).transpose(1, 2)  # type: ignore[operator]
        for projection in (attention.k_proj, attention.v_proj)
    )
    cosines, sines = (turn.unsqueeze(1) for turn in turns)
    return keys * cosines + rotate_half(keys) * sines, values


def _columns(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """[B, m] int64, each row's wanted columns first, m of the row that has most; and [B, m] bool, which are wanted."""
    most = int(wanted.sum(dim=1).max())
    columns = wanted.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return columns, wanted.gather(1, columns)
