"""What is made again for the backward pass is what was there, and is not kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import QuickGELUActivation
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

from lavic.model import lean_lora
from lavic.model.accelerations import Accelerations, arrange_modules
from lavic.model.adapters import lora_parameters
from lavic.model.lean_lora import pack_bits, unpack_bits
from lavic.model.made_again import Recipe, recipe_of, with_recipe

WIDTH = 24


class Behind(nn.Module):
    """A norm or an activation, and layers with LoRA that share what comes out of it."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.one, self.other = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 6)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 24] to [..., 11]."""
        made = self.first(x)
        return torch.cat([self.one(made), self.other(made)], -1)


def behind(first: nn.Module, dtype: torch.dtype, dropout: float) -> nn.Module:
    torch.manual_seed(1)
    config = LoraConfig(r=3, lora_dropout=dropout, target_modules=["one", "other"])
    wrapped = get_peft_model(Behind(first), config, autocast_adapter_dtype=False).train().to(dtype)
    for parameter in first.parameters():
        nn.init.normal_(parameter)
    for parameter in lora_parameters(wrapped).values():
        nn.init.normal_(parameter)
    arrange_modules([wrapped], Accelerations())
    return wrapped


def kept_and_gradients(wrapped: nn.Module) -> tuple[dict[int, Tensor], list[Tensor]]:
    """What autograd keeps (by storage, weights left out), and the gradients."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in wrapped.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    torch.manual_seed(2)
    x = torch.randn(4, 7, WIDTH, dtype=next(wrapped.parameters()).dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = wrapped(x)
    return kept, list(torch.autograd.grad(out, [x, *lora_parameters(wrapped).values()], torch.ones_like(out)))


FIRST: list[Callable[[], nn.Module]] = [lambda: nn.LayerNorm(WIDTH), QuickGELUActivation, lambda: MistralRMSNorm(WIDTH)]


@pytest.mark.parametrize("first", FIRST, ids=["layer norm", "quick gelu", "rms norm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_input_that_can_be_made_again_is_not_kept(
    first: Callable[[], nn.Module], dtype: torch.dtype, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = behind(first(), dtype, dropout)
    lean, gradients = kept_and_gradients(wrapped)
    monkeypatch.setattr(lean_lora, "recipe_of", lambda x: Recipe(lambda tensor: tensor, (x,)))
    whole, wanted = kept_and_gradients(wrapped)
    for found, one in zip(gradients, wanted, strict=True):
        assert torch.equal(found, one)
    inputs = [sum(tensor.shape == (4, 7, WIDTH) for tensor in kept.values()) for kept in (lean, whole)]
    assert inputs == [1, 2], "what goes into the first; also what comes out of it"


def test_recomputed_layers_keep_no_recipe_either() -> None:
    wrapped = behind(MistralRMSNorm(WIDTH), torch.float64, 0.0)
    _, wanted = kept_and_gradients(wrapped)
    plain = wrapped.forward
    wrapped.forward = lambda x: torch.utils.checkpoint.checkpoint(plain, x, use_reentrant=False)  # type: ignore[method-assign]
    kept, gradients = kept_and_gradients(wrapped)
    assert [tensor.shape for tensor in kept.values()] == [(4, 7, WIDTH)]
    for found, one in zip(gradients, wanted, strict=True):
        assert torch.equal(found, one)


def test_a_tensor_that_was_changed_since_is_kept_itself() -> None:
    source = torch.randn(3, requires_grad=True)
    made = with_recipe(source * 2, lambda tensor: tensor * 2, source)
    recipe = recipe_of(made)
    assert torch.equal(recipe.make(*recipe.tensors), made)
    assert recipe.tensors[0] is not made
    made += 1
    assert recipe_of(made).tensors == (made,)
    assert recipe_of(source).tensors == (source,)


def test_without_gradient_nothing_is_held() -> None:
    source = torch.randn(3)
    with torch.no_grad():
        made = with_recipe(source * 2, lambda tensor: tensor * 2, source)
    assert recipe_of(made).tensors == (made,)


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (8,), (3, 5), (2, 4, 24), (1001,)])
def test_a_mask_takes_a_bit_an_element(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4
    packed = pack_bits(mask)
    assert packed.dtype is torch.uint8
    assert packed.numel() == (mask.numel() + 7) // 8
    assert torch.equal(unpack_bits(packed, mask.numel()).view(shape), mask)
    one_at_a_time = functional.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8).int()
    assert packed.tolist() == (one_at_a_time * torch.tensor([2**bit for bit in range(8)])).sum(1).tolist()
