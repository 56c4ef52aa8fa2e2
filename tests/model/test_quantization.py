"""4-bit weights: the language model's and nothing else's; training goes on as before."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from model.tiny_models import fill_lora, random_views
from torch import Tensor, nn

from lavic.errors import ConfigError, ModelError
from lavic.model import quantization
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters
from lavic.model.load import load_base
from lavic.model.losses import target_loss
from lavic.model.quantization import require_bitsandbytes, settle_quantized
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (lavic[four-bit])"
)


@pytest.fixture(scope="module")
def four_bit():
    return load_base("tiny", four_bit=True)


@needs_bitsandbytes
def test_only_the_language_models_layers_are_quantised(four_bit):
    plain = load_base("tiny")
    for name, module in four_bit.model.named_modules():
        if isinstance(module, nn.Linear):
            quantised = type(module) is not nn.Linear
            assert quantised == name.startswith("model.language_model."), name
            if not quantised:
                torch.testing.assert_close(module.weight, plain.model.get_submodule(name).weight, rtol=0, atol=0)


def loss_and_gradients(base) -> tuple[float, dict[str, Tensor]]:
    wrapped = attach_vision_lora(base.model, LoraSettings(dropout=0.0))
    fill_lora(wrapped)
    model, builder = FiveTokenModel(base), SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, 5)
    batch = builder.collate([builder.distill("Mug", "A red mug."), builder.distill("Lamp", "A blue lamp.")])
    loss = target_loss(model.hidden_states(batch, model.visual_tokens(random_views(2))), model.lm_head, batch)
    loss.total.backward()
    return float(loss.total.detach()), {name: tensor.grad for name, tensor in lora_parameters(wrapped).items()}


@needs_bitsandbytes
def test_gradients_are_those_of_the_same_weights_unpacked():
    from bitsandbytes.functional import dequantize_4bit

    four_bit, unpacked = load_base("tiny", four_bit=True), load_base("tiny")
    for name, module in four_bit.model.named_modules():
        if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            place = unpacked.model.get_submodule(name).weight
            assert not torch.equal(place, weight), "4 bits say less"
            place.data.copy_(weight)
    loss, gradients = loss_and_gradients(four_bit)
    wanted_loss, wanted = loss_and_gradients(unpacked)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert len(gradients) == 52
    for name, gradient in gradients.items():
        scale = float(wanted[name].abs().max())
        assert scale > 0, name
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-4 * scale, msg=name)


def test_a_layer_that_is_not_quantised_is_noticed():
    with pytest.raises(ModelError, match="layers have the wrong number format"):
        settle_quantized(load_base("tiny").model, "tiny")


def test_without_bitsandbytes_it_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="need bitsandbytes, which is not installed"):
        require_bitsandbytes()
