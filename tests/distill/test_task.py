"""A step of stage 1 is one step over its samples, into whatever micro-batches they are cut; in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model.tiny_models import fill_lora, make_base
from PIL import Image
from torch import Tensor

from lavic.distill import evaluation
from lavic.distill.setup import make_prefix
from lavic.distill.task import DistillTask
from lavic.errors import NothingLeftError, TrainingError
from lavic.formats import SkipLog
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters
from lavic.model.losses import Objective, TargetLoss, TeacherTokens
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tiny_model import VIEW_SIZE
from lavic.toyshop.tokenizer import train_tokenizer
from lavic.training.checkpoints import RunState
from lavic.training.devices import make_fabric
from lavic.training.loaders import MicroBatches, Sample
from lavic.training.loop import LoopSettings, Trainer

WORDS = ["a", "red", "mug", "with", "one", "handle", "and", "a", "white", "rim", "that", "stands", "on", "grey"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Model, LoRA and seven samples whose descriptions have 1 to 13 words."""
    tokenizer = train_tokenizer()
    builder = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5)
    base = make_base(tokenizer)
    wrapped = attach_vision_lora(base.model, LoraSettings(dropout=0.0))
    folder = tmp_path_factory.mktemp("images")
    samples = []
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (50, 40 + 10 * number, 3), np.uint8)
        path = folder / f"{number}_0.png"
        Image.fromarray(pixels).save(path)
        text = " ".join(WORDS[: 2 * number + 1])
        samples.append(Sample(path.name, path, builder.distill(f"Title {number}", text)))
    model = FiveTokenModel(base)
    data = MicroBatches(samples, builder, view_size=VIEW_SIZE, views=5)
    return {
        "fabric": make_fabric(torch.device("cpu"), "fp32"),
        "model": model,
        "wrapped": wrapped,
        "lora": LoraSettings(dropout=0.0),
        "parameters": lora_parameters(wrapped),
        "train": data,
        "valid": data,
        "prefix": make_prefix(model, samples),
        "valid_prefix": make_prefix(model, samples),
        "workers": 0,
        "seed": 3,
        "group_by_length": True,
        "output_dir": folder,
        "base_name": "tiny",
        "log": None,
        "console": None,
        "bar": None,
    }


def one_step(parts: dict[str, Any], batch_size: int, accumulation: int, **more: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step."""
    fill_lora(parts["wrapped"])
    parameters = parts["parameters"]
    optimizer = torch.optim.AdamW(parameters.values())
    whole = {**parts, "optimizer": optimizer, "skipped": SkipLog(), **more}
    task = DistillTask(batch_size=batch_size, accumulation=accumulation, **whole)
    trainer = Trainer(task.fabric, task, LoopSettings(), parameters, optimizer, RunState())
    optimizer.zero_grad(set_to_none=True)
    (step,) = task.steps(0, 0)
    nats, tokens, samples = trainer._accumulate(step)
    assert tokens == sum(sample.sequence.target_tokens for sample in task.train.samples)
    assert samples == 7
    return nats / tokens, {name: parameter.grad.clone() for name, parameter in parameters.items()}


@pytest.mark.parametrize(("batch_size", "accumulation"), [(6, 2), (3, 3), (2, 4), (1, 7)])
def test_accumulated_uneven_micro_batches_are_one_batch(parts: dict[str, Any], batch_size: int, accumulation: int):
    loss, gradients = one_step(parts, 7, 1)
    found, found_gradients = one_step(parts, batch_size, accumulation)
    assert found == pytest.approx(loss, rel=1e-10)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(found_gradients[name], gradient, rtol=0, atol=1e-10 * scale, msg=name)


@pytest.mark.parametrize("taught", [False, True])
def test_only_pictures_whose_own_loss_is_not_finite_are_named(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, taught: bool
):
    learnt = {"teacher": DrawnTeacher(), "objective": Objective(kl=0.5)} if taught else {}
    original, spoiled = evaluation.target_loss, "divergences" if taught else "nats"

    def of_two(*arguments: Any, **named: Any) -> TargetLoss:
        loss = original(*arguments, **named)
        numbers = getattr(loss, spoiled)
        struck = (loss.rows == 5) | (loss.rows == 6)
        return replace(loss, **{spoiled: numbers.masked_fill(struck, torch.nan)})

    monkeypatch.setattr(evaluation, "target_loss", of_two)
    order = batch_order(parts)
    with pytest.raises(TrainingError, match=f"is nan, with {order[5]}, {order[6]} in it"):
        one_step(parts, 7, 1, **learnt)


def batch_order(parts: dict[str, Any]) -> tuple[str, ...]:
    """The names of the one micro-batch of the first step."""
    task = DistillTask(batch_size=7, accumulation=1, **{**parts, "optimizer": None, "skipped": SkipLog()})
    ((micro,),) = task.steps(0, 0)
    return micro.names


def test_a_validation_names_the_pictures_whose_loss_is_not_finite(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    original = evaluation.target_loss

    def of_the_first(*arguments: Any, **named: Any) -> TargetLoss:
        loss = original(*arguments, **named)
        return replace(loss, nats=loss.nats.masked_fill(loss.rows == 0, torch.inf))

    monkeypatch.setattr(evaluation, "target_loss", of_the_first)
    task = DistillTask(batch_size=7, accumulation=1, **{**parts, "optimizer": None, "skipped": SkipLog()})
    # The longest comes first.
    with pytest.raises(TrainingError, match=r"the validation loss of 6_0\.png is not finite"):
        task.measure()


class DrawnTeacher:
    """Stands for a store: four likeliest tokens at each place, drawn, the same for a sample each time."""

    def tokens_of(self, samples: list[Sample]) -> TeacherTokens:
        ids, log_probs = [], []
        for sample in samples:
            generator = torch.Generator().manual_seed(int(sample.name[0]))
            logits = 3 * torch.randn(sample.sequence.target_tokens, 500, generator=generator)
            top = logits.log_softmax(-1).topk(4, -1)
            ids.append(top.indices)
            log_probs.append(top.values)
        known = torch.cat(log_probs)
        return TeacherTokens(torch.cat(ids), known, (1 - known.exp().sum(-1)).log())


@pytest.mark.parametrize(("batch_size", "accumulation"), [(6, 2), (2, 4), (1, 7)])
@pytest.mark.parametrize("nll", [0.0, 1.0], ids=["kl", "nll+kl"])
def test_with_a_teacher_too_uneven_micro_batches_are_one_batch(
    parts: dict[str, Any], nll: float, batch_size: int, accumulation: int
):
    learnt = {"teacher": DrawnTeacher(), "objective": Objective(nll=nll, kl=0.7, temperature=2.0)}
    loss, gradients = one_step(parts, 7, 1, **learnt)
    assert loss != pytest.approx(one_step(parts, 7, 1)[0], rel=1e-3), "another loss than that of the text"
    found, found_gradients = one_step(parts, batch_size, accumulation, **learnt)
    assert found == pytest.approx(loss, rel=1e-10)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(found_gradients[name], gradient, rtol=0, atol=1e-10 * scale, msg=name)


def test_the_cached_prefix_changes_neither_loss_nor_gradients(parts: dict[str, Any]):
    loss, gradients = one_step(parts, 3, 3)
    found, found_gradients = one_step(parts, 3, 3, prefix=None)
    assert found == pytest.approx(loss, rel=1e-10)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found_gradients[name], gradient, rtol=0, atol=1e-10 * scale, msg=name)


def test_a_resumed_epoch_has_the_steps_that_were_left(parts: dict[str, Any]):
    fill_lora(parts["wrapped"])
    whole = {**parts, "optimizer": None, "skipped": SkipLog()}
    task = DistillTask(batch_size=2, accumulation=2, **whole)
    assert task.steps_per_epoch == 2
    steps = [[micro.names for micro in step] for step in task.steps(1, 0)]
    assert [len(step) for step in steps] == [2, 2]
    assert sorted(name for step in steps for names in step for name in names) == [f"{n}_0.png" for n in range(7)]
    assert [[micro.names for micro in step] for step in task.steps(1, 1)] == steps[1:]
    assert [[micro.names for micro in step] for step in task.steps(0, 0)] != steps


def test_an_epoch_without_a_single_readable_picture_ends_the_run(parts: dict[str, Any], tmp_path: Path):
    samples = [Sample(f"{n}.png", tmp_path / f"{n}.png", parts["train"].samples[0].sequence) for n in range(5)]
    unreadable = MicroBatches(samples, parts["train"].builder, view_size=VIEW_SIZE, views=5)
    skipped = SkipLog(tmp_path / "skipped.jsonl")
    task = DistillTask(
        batch_size=2, accumulation=1, **{**parts, "optimizer": None, "train": unreadable, "skipped": skipped}
    )
    with pytest.raises(NothingLeftError) as caught:
        list(task.steps(0, 0))
    assert caught.value.sentence == (
        f"{tmp_path}: no training picture can be read; the last one: the file does not exist. "
        f"{tmp_path / 'skipped.jsonl'} lists them all."
    )
    assert skipped.count == 5
