"""The loss of a whole set: every token counts once, however the set is cut into batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from model.tiny_models import MEAN, STD, fill_lora, make_base, oracle_sizes, oracle_weights
from PIL import Image
from transformers import LlamaTokenizer

from lavic.distill import evaluation
from lavic.distill.evaluation import LossSums, ValidationLoss, validate
from lavic.distill.setup import make_prefix
from lavic.errors import NothingLeftError
from lavic.model.adapters import LoraSettings, attach_vision_lora
from lavic.model.losses import TargetLoss
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tiny_model import VIEW_SIZE
from lavic.toyshop.tokenizer import train_tokenizer
from lavic.training.loaders import MicroBatches, Sample

TEXTS = [
    ("Blue mug", "A round blue mug with a white handle."),
    ("No Title", "Red."),
    ("x", "A tall lamp with a striped shade, photographed on grey; its foot is made of brass."),
    ("Crème brûlée torch 🔥", "A small torch: black grip, silver nozzle. " * 4),
    ("A title that is longer than what is said of the picture", "Beige"),
]


@dataclass(frozen=True, repr=False)
class Measured:
    """A student with LoRA, its samples, and what slow maths says of every target token."""

    model: FiveTokenModel
    samples: list[Sample]
    builder: SequenceBuilder
    nats: list[list[float]]

    def loss(self, **more: object) -> ValidationLoss:
        dataset = MicroBatches(self.samples, self.builder, view_size=VIEW_SIZE, views=5)
        options = {"prefix": None, "workers": 0, "where": "here", **more}
        return validate(self.model, dataset, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    tokenizer: LlamaTokenizer = train_tokenizer()
    builder = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5)
    base = make_base(tokenizer)
    fill_lora(attach_vision_lora(base.model, LoraSettings()))
    folder = tmp_path_factory.mktemp("images")
    samples, nats = [], []
    weights, sizes = oracle_weights(base.model), oracle_sizes(base.model)
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    for number, (title, description) in enumerate(TEXTS):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + 20 * number, 90 - 11 * number, 3), np.uint8)
        path = folder / f"{number}_0.png"
        Image.fromarray(pixels).save(path)
        sequence = builder.distill(title, description)
        samples.append(Sample(path.name, path, sequence, f"line {number + 1}"))
        views = torch.from_numpy(oracles.views(Image.fromarray(pixels), VIEW_SIZE))
        seen = oracles.visual_tokens(weights, sizes, oracles.normalised(views, MEAN, STD))
        ids, placeholders = list(sequence.input_ids), list(sequence.placeholders)
        losses = oracles.target_nats(weights, sizes, ids, placeholders, sequence.prompt_length, seen)
        nats.append([float(loss) for loss in losses])
    return Measured(FiveTokenModel(base), samples, builder, nats)


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached prefix"])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_the_loss_is_that_of_slow_maths_for_any_batch_size(
    measured: Measured, size: int, cached: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluation, "VALIDATION_BATCH", size)
    found = measured.loss(prefix=make_prefix(measured.model, measured.samples) if cached else None)
    every = [nat for row in measured.nats for nat in row]
    words = [nat for row in measured.nats for nat in row[:-1]]  # the last of a row is EOS
    assert found.tokens == len(every)
    assert found.samples == len(TEXTS)
    assert found.loss == pytest.approx(sum(every) / len(every), rel=1e-10)
    assert found.loss_without_eos == pytest.approx(sum(words) / len(words), rel=1e-10)
    assert found.perplexity == pytest.approx(math.exp(sum(every) / len(every)), rel=1e-9)
    assert found.perplexity_without_eos == pytest.approx(math.exp(sum(words) / len(words)), rel=1e-9)
    # The mean of the rows' means, which it must not be, is another number here.
    means = [sum(row) / len(row) for row in measured.nats]
    assert abs(sum(means) / len(means) - found.loss) > 1e-3


def test_a_float32_model_has_one_loss_for_any_batch_size(measured: Measured, monkeypatch: pytest.MonkeyPatch):
    model = FiveTokenModel(make_base(train_tokenizer(), dtype=torch.float32))
    in_float32 = Measured(model, measured.samples, measured.builder, [])
    losses = []
    for size in (1, 2, 3, 16):
        monkeypatch.setattr(evaluation, "VALIDATION_BATCH", size)
        losses.append(in_float32.loss().loss)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


def test_a_picture_that_cannot_be_read_is_told_and_the_rest_counts(measured: Measured, tmp_path: Path):
    (tmp_path / "bad.png").write_text("no picture")
    samples = list(measured.samples)
    samples[2] = Sample("bad.png", tmp_path / "bad.png", samples[2].sequence)
    failed: list[tuple[int, str]] = []
    done: list[int] = []
    broken = Measured(measured.model, samples, measured.builder, [])
    found = broken.loss(on_failed=failed.extend, on_batch=done.append)
    left = [nat for number, row in enumerate(measured.nats) if number != 2 for nat in row]
    assert found.loss == pytest.approx(sum(left) / len(left), rel=1e-10)
    assert (found.samples, found.tokens) == (4, len(left))
    assert failed == [(2, "the file is not an image of a known kind")]
    assert sum(done) == 5  # the progress bar comes to its end


def test_a_set_without_a_readable_picture_is_an_error(measured: Measured, tmp_path: Path):
    samples = [Sample("none.png", tmp_path / "none.png", measured.samples[0].sequence)]
    with pytest.raises(NothingLeftError, match="here: no validation sample could be read"):
        Measured(measured.model, samples, measured.builder, []).loss()


def test_sums_are_taken_by_token_and_apart_for_eos():
    sums = LossSums()
    # By hand: 1 + 2 and EOS 6; then EOS 3 alone. With EOS 12 nats over 4 tokens, without 3 over 2.
    for nats, is_eos in (([1.0, 2.0, 6.0], [False, False, True]), ([3.0], [True])):
        rows = torch.zeros(len(nats), dtype=torch.int64)
        sums.add(TargetLoss(torch.tensor(nats), rows, torch.tensor(is_eos)), samples=1)
    assert sums.result("") == ValidationLoss(
        loss=3.0,
        perplexity=pytest.approx(math.exp(3)),
        loss_without_eos=1.5,
        perplexity_without_eos=pytest.approx(math.exp(1.5)),
        tokens=4,
        samples=2,
    )
