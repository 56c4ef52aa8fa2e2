"""The last lessons of the tiny model, for a few steps: what changes, and what stays."""

from __future__ import annotations

import pytest
import torch

from lavic.model.load import load_base
from lavic.toyshop import joint_training
from lavic.toyshop.joint_training import JointTraining
from lavic.toyshop.picture_pool import make_pool


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    return (
        make_pool(folder / "train", 700, 1, held_out=False, workers=1),
        make_pool(folder / "valid", 160, 2, held_out=True, workers=1),
    )


@pytest.fixture
def training(pools, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(joint_training, "READING_BATCH", 2)
    monkeypatch.setattr(joint_training, "DESCRIBING_BATCH", 4)
    monkeypatch.setattr(joint_training, "CANDIDATES", 12)
    base = load_base("tiny")
    base.model.requires_grad_(True)
    return JointTraining(base.model, base.tokenizer, *pools, seed=3)


def changed(before, model):
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def kept(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


READERS = ("model.multi_modal_projector.", "model.language_model.layers.0.")


def test_reading_changes_the_projector_and_the_first_layer_only(training, monkeypatch):
    monkeypatch.setattr(joint_training, "READING", {"read": 1.0})
    before = kept(training.model)
    assert list(training.learn(3, 0, print)) == [1, 2, 3]
    names = changed(before, training.model)
    assert {name.startswith(READERS) for name in names} == {True}
    assert any(name.startswith(READERS[0]) for name in names)
    assert any(name.startswith(READERS[1]) for name in names)


def test_revising_changes_what_reading_changes_and_reads_better(training, monkeypatch):
    monkeypatch.setattr(joint_training, "REVISING", 50)
    # A model that reads less well than it did.
    training.model.model.multi_modal_projector.linear_2.weight.data *= 0.5
    before, losses = kept(training.model), []
    original = training._read

    def read():
        loss = original()
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(training, "_read", read)
    told = []
    training.revise(told.append)
    assert {name.startswith(READERS) for name in changed(before, training.model)} == {True}
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert told == [f"revising step=50 of 50 read={losses[-1]:.3f}"]


@pytest.mark.parametrize("lesson", ["describe", "text", "rows"])
def test_no_lesson_changes_the_tower_or_the_words(training, monkeypatch, lesson):
    monkeypatch.setattr(joint_training, "CHOOSING", {lesson: 1.0})
    before = kept(training.model)
    assert list(training.learn(0, 2, print)) == [1, 2]
    names = changed(before, training.model)
    assert not [name for name in names if "vision_tower" in name or "embed_tokens" in name]
    assert "lm_head.weight" in names
    assert any("layers.5." in name for name in names)
    assert any(name.startswith(READERS[0]) for name in names) == (lesson != "text")


def test_rates_fall_to_those_of_choosing_and_to_nothing():
    rates = [joint_training.reader_rate(step, 100, 100) for step in range(201)]
    assert rates[10] == joint_training.READER_RATE
    assert rates[100] == joint_training.LATER_READER_RATE
    assert rates[120] == joint_training.LATER_READER_RATE
    assert rates[200] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_examining_tells_all_three_figures(training):
    told = training.examine()
    assert told.startswith("held-out loss=")
    assert "words=" in told
    assert "pictures=" in told


def test_features_are_those_of_the_tower(training):
    pixels = training.describing.pixels([5, 3])
    with torch.no_grad():
        features = joint_training.tower_states(training.model, pixels)[0]
    torch.testing.assert_close(training.features[[5, 3]].float(), features, rtol=0.02, atol=0.1)
