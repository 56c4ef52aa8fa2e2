"""Lean layers are the layers that they stand for; their maths inside the model is tested in test_losses.py."""

from __future__ import annotations

import pytest
import torch
from model.tiny_models import fill_lora, random_views
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.activations import QuickGELUActivation

from lavic.model.accelerations import PLAIN, Accelerations, arrange_modules
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, set_lora_dropout
from lavic.model.lean_lora import dropout_mask
from lavic.model.load import load_base
from lavic.model.visual_tokens import FiveTokenModel

LEAN = Accelerations()


class Net(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5, bias=bias, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def wrapped_net(bias: bool = True, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    wrapped = get_peft_model(
        Net(bias),
        LoraConfig(r=3, lora_alpha=6, lora_dropout=dropout, target_modules=["layer"]),
        autocast_adapter_dtype=False,
    )
    for parameter in lora_parameters(wrapped).values():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64)
    return wrapped


def results(wrapped: nn.Module, x: torch.Tensor, *, lean: bool) -> list[torch.Tensor]:
    arrange_modules([wrapped], LEAN if lean else PLAIN)
    torch.manual_seed(2)
    out = wrapped(x)
    return [out, *torch.autograd.grad(out.sin().sum(), [x, *lora_parameters(wrapped).values()])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (2, 3, 2, 6)])
def test_output_and_gradients_are_pefts(bias, shape):
    wrapped = wrapped_net(bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for lean, plain in zip(results(wrapped, x, lean=True), results(wrapped, x, lean=False), strict=True):
        torch.testing.assert_close(lean, plain, rtol=1e-12, atol=1e-12)


def test_gradients_with_dropout_are_those_of_the_mask_that_was_drawn():
    wrapped = wrapped_net(dropout=0.4).train()
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    lean = results(wrapped, x, lean=True)
    torch.manual_seed(2)
    keep, share = dropout_mask(x, 0.4)
    layer = wrapped.base_model.model.layer
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    out = layer.base_layer(x) + 2 * (x * keep / share) @ a.T @ b.T
    wanted = [out, *torch.autograd.grad(out.sin().sum(), [x, a, b])]
    for found, one in zip(lean, wanted, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-12, atol=1e-12)
    assert not keep.all()


def test_a_disabled_adapter_is_the_base_layer():
    wrapped, x = wrapped_net(), torch.randn(2, 6, dtype=torch.float64)
    arrange_modules([wrapped], LEAN)
    with wrapped.disable_adapter():
        torch.testing.assert_close(wrapped(x), wrapped.base_model.model.layer.base_layer(x), rtol=0, atol=0)
    assert not torch.allclose(wrapped(x), wrapped.base_model.model.layer.base_layer(x))


def test_what_is_not_plain_lora_stays_pefts():
    config = LoraConfig(r=2, target_modules=["layer"], use_dora=True)
    wrapped = get_peft_model(Net(True), config, autocast_adapter_dtype=False)
    arrange_modules([wrapped], LEAN)
    assert "forward" not in wrapped.base_model.model.layer.__dict__


@pytest.mark.parametrize("count", [1, 3, 4, 100_001])
def test_the_mask_keeps_the_right_share(count):
    torch.manual_seed(3)
    keep, share = dropout_mask(torch.empty(count), 0.1)
    assert keep.shape == (count,)
    assert keep.dtype == torch.bool
    assert share == pytest.approx(0.9, abs=1e-5)
    if count > 100_000:
        # Four standard deviations of a mean of so many draws.
        assert float(keep.double().mean()) == pytest.approx(share, abs=4 * (0.09 / count) ** 0.5)
        # The four parts of a draw, the highest bits among them, are alike.
        parts = keep[: count // 4 * 4].view(-1, 4).double().mean(dim=0)
        assert float((parts - share).abs().max()) < 4 * (4 * 0.09 / count) ** 0.5


def test_the_mask_is_a_function_of_the_seed():
    masks = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        masks.append(dropout_mask(torch.empty(1000), 0.5)[0])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("layer", [nn.LayerNorm(6, dtype=torch.float64), QuickGELUActivation()])
def test_norm_and_gelu_are_the_librarys(layer):
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for lean in (True, False):
        arrange_modules([layer], LEAN if lean else PLAIN)
        out = layer(x)
        found.append((out, *torch.autograd.grad(out.sin().sum(), x)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_norm_under_autocast_gives_what_the_linear_layer_behind_it_would_round_to():
    layer, x = nn.LayerNorm(64, dtype=torch.bfloat16), torch.randn(5, 64, dtype=torch.bfloat16)
    torch.nn.init.normal_(layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        arrange_modules([layer], PLAIN)
        plain = layer(x).to(torch.bfloat16)
        arrange_modules([layer], LEAN)
        lean = layer(x)
    assert lean.dtype == torch.bfloat16
    torch.testing.assert_close(lean, plain, rtol=0, atol=0)


def kept_bytes(model: FiveTokenModel) -> int:
    """What the vision side keeps for its backward pass, each storage once, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        tokens = model.visual_tokens(random_views(2))
    assert tokens.requires_grad
    return sum(kept.values())


def test_a_bf16_model_keeps_less_for_its_backward_pass():
    base = load_base("tiny", dtype=torch.bfloat16)
    wrapped = attach_vision_lora(base.model, LoraSettings(dropout=0.1))
    fill_lora(wrapped)
    set_lora_dropout(wrapped, True)
    plain = kept_bytes(FiveTokenModel(base, Accelerations(lean_vision=False)))
    assert kept_bytes(FiveTokenModel(base)) < 0.6 * plain
