"""The published side computes what lavic computes: pictures, loss and LoRA gradients; only the work differs."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from model.tiny_models import fill_lora, make_base
from published import PublishedDistillation
from shapes import make_samples
from torch import Tensor

from lavic.distill.evaluation import batch_loss
from lavic.distill.setup import make_prefix
from lavic.model.accelerations import PLAIN, Accelerations
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters
from lavic.model.load import BaseModel
from lavic.model.sequences import SequenceBuilder
from lavic.model.views import PixelNorm
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tokenizer import train_tokenizer
from lavic.training.loaders import MicroBatches, Sample


@pytest.fixture(scope="module")
def base() -> BaseModel:
    """A tiny model in float64 with LoRA whose every weight matters."""
    base = make_base(train_tokenizer())
    attach_vision_lora(base.model, LoraSettings(dropout=0.0)).double()
    fill_lora(base.model)
    return base


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> list[Sample]:
    """Three pictures with texts of the real lengths."""
    return make_samples(tmp_path_factory.mktemp("pictures"), builder_of(base), 3, seed=0)


def builder_of(base: BaseModel) -> SequenceBuilder:
    return SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, 5)


def gradients(base: BaseModel, loss: Tensor) -> dict[str, Tensor]:
    parameters = lora_parameters(base.model)
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def switches() -> list[Accelerations]:
    """The defaults, none at all, and each of the defaults off alone."""
    defaults = Accelerations()
    on = [field.name for field in fields(Accelerations) if getattr(defaults, field.name) is True]
    return [defaults, PLAIN, *(replace(defaults, **{name: False}) for name in on)]


@pytest.mark.parametrize("accelerations", switches(), ids=str)
def test_loss_and_gradients_equal_lavics(base: BaseModel, samples: list[Sample], accelerations: Accelerations) -> None:
    builder = builder_of(base)
    batch = MicroBatches(samples, builder, view_size=base.view_size, views=5)[[0, 1, 2]]
    assert batch.tokens is not None
    assert not batch.tokens.attention_mask.all()  # rows of different lengths: padding is part of the test
    student = FiveTokenModel(base, accelerations)
    ours = batch_loss(student, batch, make_prefix(student, samples))
    # The same float64 pixels for both: the library rounds to float32 in another order.
    pixels = PixelNorm(base.pixel_mean, base.pixel_std)(batch.views, torch.float64)
    theirs = PublishedDistillation(base, builder).loss_of(pixels, batch.tokens)
    mean = ours.total / len(ours.nats)
    torch.testing.assert_close(theirs, mean, rtol=1e-10, atol=0)
    expected = gradients(base, theirs)
    for name, found in gradients(base, mean).items():
        scale = float(expected[name].abs().max())
        assert scale > 0
        torch.testing.assert_close(found, expected[name], rtol=1e-10, atol=1e-10 * scale, msg=name)


def test_pictures_equal_lavics_views(base: BaseModel, samples: list[Sample]) -> None:
    builder = builder_of(base)
    views = MicroBatches(samples, builder, view_size=base.view_size, views=5)[[0, 1]].views
    expected = PixelNorm(base.pixel_mean, base.pixel_std)(views, torch.float32)
    found = PublishedDistillation(base, builder).read_pictures([sample.path for sample in samples[:2]])
    assert found.shape == (2, 5, 3, base.view_size, base.view_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_missing_picture_is_an_error_not_a_white_one(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PublishedDistillation(base, builder_of(base)).read_pictures([tmp_path / "gone.jpg"])
