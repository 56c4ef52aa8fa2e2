"""Short cuts can be switched on, off and on again; the maths of each is tested in test_losses.py."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace

import pytest
import torch
from model.tiny_models import fill_lora, random_views

from lavic.distill.config import DistillSettings
from lavic.errors import ConfigError
from lavic.model import accelerations as module
from lavic.model.accelerations import PLAIN, Accelerations, require_compiler
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters
from lavic.model.load import load_base
from lavic.model.losses import target_loss
from lavic.model.prefix_cache import PrefixCache, shared_length
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.tune.config import TuneSettings


def test_every_short_cut_has_a_switch_of_its_name():
    flags = DistillSettings.model_fields
    for field in fields(Accelerations):
        if field.name == "answer_states":
            assert field.name not in flags, "of stage 2 alone"
            assert TuneSettings.model_fields[field.name].default is True
        else:
            assert flags[field.name].default == field.default


def test_plain_takes_no_short_cut():
    assert not any(getattr(PLAIN, field.name) for field in fields(Accelerations))


def test_what_layers_were_arranged_for_is_undone():
    base = load_base("tiny")
    layers = [*base.model.model.vision_tower.encoder.layers, *base.model.model.language_model.layers]
    before = [layer.forward for layer in layers]
    model = FiveTokenModel(base, Accelerations(activation_checkpointing=True))
    assert all(layer.forward != forward for layer, forward in zip(layers, before, strict=True))
    model.accelerate(Accelerations(activation_checkpointing=True))
    model.accelerate(PLAIN)
    assert [layer.forward for layer in layers] == before


def saved_bytes(model: FiveTokenModel, views: torch.Tensor) -> int:
    """What the vision side keeps for its backward pass."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.visual_tokens(views)
    return total


def test_activation_checkpointing_keeps_less():
    base = load_base("tiny")
    attach_vision_lora(base.model, LoraSettings())
    model, views = FiveTokenModel(base), random_views(2)
    kept = saved_bytes(model, views)
    model.accelerate(Accelerations(activation_checkpointing=True))
    assert saved_bytes(model, views) < kept / 4


def test_dropout_draws_the_same_when_a_layer_is_computed_again():
    base = load_base("tiny")
    wrapped = attach_vision_lora(base.model, LoraSettings(dropout=0.5))
    fill_lora(wrapped)
    for name, layer in wrapped.named_modules():
        layer.train("lora_dropout" in name)
    gradients = []
    for switched in (False, True):
        model = FiveTokenModel(base, Accelerations(activation_checkpointing=switched))
        torch.manual_seed(3)
        wrapped.zero_grad()
        model.visual_tokens(random_views(2)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in lora_parameters(wrapped).values()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * float(one.abs().max()))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compile_gives_the_same_loss_and_gradients(checkpointing):
    base = load_base("tiny")
    wrapped = attach_vision_lora(base.model, LoraSettings())
    fill_lora(wrapped)
    builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, 5)
    fast = Accelerations(compile=True, activation_checkpointing=checkpointing)
    for rows in (1, 3):
        sequences = [builder.distill("Title " * (row + 1), "red cup " * (3 * row + 2)) for row in range(rows)]
        results = []
        for chosen in (fast, replace(fast, compile=False)):
            model = FiveTokenModel(base, chosen)
            ids = sequences[0].input_ids[: shared_length(sequences)]
            prefix = PrefixCache(base.model.model.language_model, base.model.get_input_embeddings(), ids)
            batch = builder.collate(sequences)
            hidden = model.hidden_states(batch, model.visual_tokens(random_views(rows)), prefix)
            wrapped.zero_grad()
            loss = target_loss(hidden, model.lm_head, batch).total
            loss.backward()
            parameters = lora_parameters(wrapped)
            results.append((float(loss.detach()), [parameter.grad.clone() for parameter in parameters.values()]))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
        for one, other in zip(results[0][1], results[1][1], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * float(other.abs().max()))


def test_compile_without_a_compiler_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        require_compiler()
