"""A checkpoint holds all that a run needs to go on as if it had not stopped."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from model.tiny_models import fill_lora, make_base, random_views
from safetensors.torch import save_file
from torch import nn

from lavic.errors import OutputError
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, set_lora_dropout
from lavic.model.visual_tokens import FiveTokenModel
from lavic.toyshop.tokenizer import train_tokenizer
from lavic.training.checkpoints import CHECKPOINT_FILE, RunState, read_state, restore, save_checkpoint
from lavic.training.loop import seed_dropout

STATE = RunState(
    step=17,
    best_loss=0.1 + 0.2,  # has no short decimal form
    best_step=10,
    bad_validations=1,
    event_rows=45,
    threads=2,
    identity={"--seed": "42", "content of --train_data": "größer"},
    best_result={"loss": 1 / 3},
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


class Run:
    """A small training run: dropout on, and a loss that depends on the step."""

    def __init__(self, tokenizer) -> None:
        base = make_base(tokenizer, dtype=torch.float32)
        self.wrapped = attach_vision_lora(base.model, LoraSettings())
        fill_lora(self.wrapped)
        set_lora_dropout(self.wrapped, True)
        self.model = FiveTokenModel(base)
        self.parameters = lora_parameters(self.wrapped)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=1e-2, weight_decay=0.1)
        self.losses: list[float] = []

    def train(self, steps: range) -> None:
        for step in steps:
            seed_dropout(5, step, 0)
            loss = self.model.visual_tokens(random_views(1, seed=step)).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.losses.append(float(loss.detach()))


def bits(run: Run) -> dict[str, torch.Tensor]:
    """All that training changes."""
    values = {}
    for name, parameter in run.parameters.items():
        values[name] = parameter.detach().clone()
        values |= {f"{key} of {name}": value.clone() for key, value in run.optimizer.state[parameter].items()}
    return values


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert {name: value.dtype for name, value in one.items()} == {name: value.dtype for name, value in other.items()}


def test_weights_and_optimizer_come_back_bit_for_bit(tokenizer, tmp_path):
    run = Run(tokenizer)
    run.train(range(3))
    save_checkpoint(tmp_path, STATE, run.parameters, run.optimizer)
    again = Run(tokenizer)
    restore(tmp_path, again.parameters, again.optimizer)
    assert_same_bits(bits(again), bits(run))
    assert len(bits(run)) == 4 * 52  # weight, two moments and the counter of each LoRA tensor


def test_going_on_equals_not_having_stopped(tokenizer, tmp_path):
    whole = Run(tokenizer)
    whole.train(range(6))
    stopped = Run(tokenizer)
    stopped.train(range(4))
    save_checkpoint(tmp_path, STATE, stopped.parameters, stopped.optimizer)
    resumed = Run(tokenizer)
    restore(tmp_path, resumed.parameters, resumed.optimizer)
    resumed.train(range(4, 6))
    assert resumed.losses == whole.losses[4:]
    assert_same_bits(bits(resumed), bits(whole))


def test_a_run_that_forgets_its_moments_goes_elsewhere(tokenizer, tmp_path):
    # What the test above would not notice if the first steps hardly changed anything.
    whole, without = Run(tokenizer), Run(tokenizer)
    whole.train(range(6))
    without.train(range(4))
    without.optimizer = torch.optim.AdamW(without.parameters.values(), lr=1e-2, weight_decay=0.1)
    without.train(range(4, 6))
    assert without.losses[4] == whole.losses[4]
    assert without.losses[5] != whole.losses[5]


def test_a_checkpoint_before_the_first_step_has_no_moments(tokenizer, tmp_path):
    fresh, other = Run(tokenizer), Run(tokenizer)
    save_checkpoint(tmp_path, RunState(), fresh.parameters, fresh.optimizer)
    other.train(range(1))
    restore(tmp_path, other.parameters, other.optimizer)
    assert_same_bits(bits(fresh), bits(other))


def linear_run() -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Two parameters that have taken one step."""
    parameters = {"a": nn.Parameter(torch.ones(3)), "b/with/slashes": nn.Parameter(torch.zeros(2, 2))}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    sum(parameter.sum() for parameter in parameters.values()).backward()
    optimizer.step()
    return parameters, optimizer


def test_the_state_comes_back_as_it_was(tmp_path):
    parameters, optimizer = linear_run()
    path = save_checkpoint(tmp_path, STATE, parameters, optimizer)
    assert path == tmp_path / CHECKPOINT_FILE
    assert read_state(tmp_path) == STATE
    save_checkpoint(tmp_path, RunState(step=18, finished=True), parameters, optimizer)
    assert read_state(tmp_path) == RunState(step=18, finished=True)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE], "one file, nothing left over"


def test_a_folder_without_checkpoint_has_no_state(tmp_path):
    assert read_state(tmp_path) is None
    assert read_state(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["empty", "zeros", "text", "cut", "header cut", "folder"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = save_checkpoint(tmp_path, STATE, *linear_run())
    whole = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        spoilt = {
            "empty": b"",
            "zeros": bytes(len(whole)),
            "text": b"a text " * 99,
            "cut": whole[:-5],
            "header cut": whole[:99],
        }
        path.write_bytes(spoilt[damage])
    with pytest.raises(OutputError) as raised:
        read_state(tmp_path)
    sentence = raised.value.sentence
    assert sentence.startswith(f"{path}: is not a checkpoint that can be resumed (")
    assert sentence.endswith("Start again with --overwrite.")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "metadata", [None, {"x": "y"}, {"state": "{"}, {"state": "7"}, {"state": json.dumps(asdict(STATE) | {"new": 1})}]
)
def test_a_file_of_tensors_that_is_no_checkpoint_is_refused(tmp_path, metadata):
    save_file({"weight/a": torch.ones(3)}, tmp_path / CHECKPOINT_FILE, metadata=metadata)
    with pytest.raises(OutputError, match="is not a checkpoint that can be resumed"):
        read_state(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    parameters, optimizer = linear_run()
    path = save_checkpoint(tmp_path, STATE, parameters, optimizer)
    with pytest.raises(OutputError) as raised:
        restore(tmp_path, {"a": parameters["a"]}, optimizer)
    assert raised.value.sentence == f"{path}: belongs to a run of another model. Start again with --overwrite."
    other = parameters | {"a": nn.Parameter(torch.ones(4))}
    with pytest.raises(OutputError, match="belongs to a run with other LoRA settings"):
        restore(tmp_path, other, torch.optim.AdamW(other.values()))
