"""Lean gates and norms are those that they stand for; their maths inside the model is tested in test_losses.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from model.tiny_models import fill_lora
from torch import Tensor, nn
from transformers import MistralConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm

from lavic.model.accelerations import PLAIN, Accelerations, arrange_modules
from lavic.model.adapters import LoraSettings, attach_language_lora, lora_parameters, set_lora_dropout
from lavic.model.lean_lora import dropout_mask
from lavic.model.load import BaseModel, load_base
from lavic.model.visual_tokens import FiveTokenModel

LEAN = Accelerations()
CONFIG = MistralConfig(hidden_size=6, intermediate_size=10, num_attention_heads=2, num_key_value_heads=1)


def results(module: nn.Module, x: Tensor, trained: list[nn.Parameter], how: Accelerations) -> list[Tensor]:
    arrange_modules([module], how)
    torch.manual_seed(2)
    out = module(x)
    return [out, *torch.autograd.grad(out.float().sin().sum(), [x, *trained])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gated_layer_gives_the_same_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = MistralMLP(CONFIG).to(dtype).requires_grad_(False)
    x = torch.randn(3, 4, 6, dtype=dtype, requires_grad=True)
    for lean, plain in zip(results(layer, x, [], LEAN), results(layer, x, [], PLAIN), strict=True):
        assert torch.equal(lean, plain)


@pytest.mark.parametrize("kind", [MistralRMSNorm, LlamaRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_the_librarys(kind: type[nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = kind(64).to(dtype).requires_grad_(False)
    nn.init.normal_(norm.weight)
    x = (3 * torch.randn(5, 2, 64)).to(dtype).requires_grad_()
    (out, gradient), (plain_out, plain_gradient) = (results(norm, x, [], how) for how in (LEAN, PLAIN))
    assert torch.equal(out, plain_out)
    close = 1e-6 if dtype is torch.float32 else 2**-7
    torch.testing.assert_close(gradient, plain_gradient, rtol=close, atol=close * float(plain_gradient.abs().max()))


def test_a_norms_gradient_in_float64_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    norm = MistralRMSNorm(7, eps=0.1).double().requires_grad_(False)
    nn.init.normal_(norm.weight)
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    arrange_modules([norm], LEAN)
    assert torch.autograd.gradcheck(norm, x)
    wanted = norm.weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 0.1)
    torch.testing.assert_close(norm(x), wanted, rtol=1e-12, atol=1e-12)


def test_what_is_trained_or_has_another_activation_stays_the_librarys() -> None:
    norm = MistralRMSNorm(6)
    layer = MistralMLP(MistralConfig(hidden_size=6, intermediate_size=10, hidden_act="gelu"))
    arrange_modules([norm, layer], LEAN)
    assert "forward" not in norm.__dict__
    assert "forward" not in layer.__dict__


# -- gates with LoRA behind them -----------------------------------------------------------------------------


def tuned_base(dtype: torch.dtype, dropout: float) -> tuple[BaseModel, list[nn.Parameter], nn.Module]:
    """The tiny model with LoRA on its language model, and its first gated layer."""
    base = load_base("tiny", dtype=dtype)
    wrapped = attach_language_lora(base.model, LoraSettings(dropout=dropout))
    if dtype is torch.float64:
        wrapped.to(dtype)
    fill_lora(wrapped)
    set_lora_dropout(wrapped, dropout > 0)
    layer = base.model.model.language_model.layers[0].mlp
    return base, list(lora_parameters(layer).values()), layer


@pytest.mark.parametrize("how", [LEAN, Accelerations(lean_vision=False)], ids=["in one go", "pefts"])
def test_gradients_of_lora_behind_a_gate_are_those_of_the_plain_layer(how: Accelerations) -> None:
    _, trained, layer = tuned_base(torch.float64, 0.0)
    assert len(trained) == 6, "gate, up and down"
    x = torch.randn(2, 5, layer.hidden_size, dtype=torch.float64, requires_grad=True)
    for lean, plain in zip(results(layer, x, trained, how), results(layer, x, trained, PLAIN), strict=True):
        torch.testing.assert_close(lean, plain, rtol=1e-11, atol=1e-11)


def test_dropout_behind_a_gate_draws_what_the_layer_alone_draws() -> None:
    _, trained, layer = tuned_base(torch.float64, 0.4)
    x = torch.randn(2, 5, layer.hidden_size, dtype=torch.float64, requires_grad=True)
    found = results(layer, x, trained, LEAN)
    alone = results(layer, x, trained, Accelerations(lean_language=False))
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    torch.manual_seed(2)
    assert not dropout_mask(x, 0.4)[0].all()


def test_a_disabled_or_merged_adapter_is_left_to_peft() -> None:
    base, _, layer = tuned_base(torch.float64, 0.0)
    x = torch.randn(2, layer.hidden_size, dtype=torch.float64)
    arrange_modules([base.model], LEAN)
    with_it = layer(x)
    layer.down_proj.enable_adapters(False)
    without = layer(x)
    arrange_modules([base.model], PLAIN)
    torch.testing.assert_close(layer(x), without, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(with_it, without)


def kept_bytes(base: BaseModel, layer: nn.Module, how: Accelerations) -> int:
    """What a gated layer and the norm in front of it keep for their backward pass, each storage once."""
    FiveTokenModel(base, how)
    norm = base.model.model.language_model.layers[0].post_attention_layernorm
    weights = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(tensor: Tensor, alive: list[Tensor]) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # or another tensor would get its address
        return tensor

    x = torch.randn(1, 200, layer.hidden_size, dtype=base.model.dtype, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(partial(note, alive=alive), lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=base.model.dtype is torch.bfloat16):
        layer(norm(x))
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_is_kept(dtype: torch.dtype) -> None:
    base, _, layer = tuned_base(dtype, 0.0)
    plain = kept_bytes(base, layer, Accelerations(lean_language=False))
    lean = kept_bytes(base, layer, LEAN)
    inner = 200 * layer.intermediate_size * dtype.itemsize
    assert plain - lean >= 2 * inner, "neither the gate's activation nor the product"
