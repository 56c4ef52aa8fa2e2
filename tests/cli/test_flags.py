"""Flags made from fields: names, spellings, and who wins."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from lavic.cli.main import COMMANDS, build_app, load_object
from lavic.config import field_extra
from lavic.distill.config import DistillSettings

# The flags of the guide and of the published stage-1 scripts, each with a value other than its default.
PUBLISHED = {
    "model_name": "some/model",
    "train_data": "../data/item2meta_train.json",
    "val_data": "../data/item2meta_valid.jsonl",
    "train_images_dir": "../data/train_images",
    "val_images_dir": "../data/valid_images",
    "output_dir": "./elsewhere",
    "max_length": "1024",
    "batch_size": "4",
    "num_workers": "4",
    "lr": "1e-4",
    "weight_decay": "1e-4",
    "num_epochs": "5",
    "seed": "7",
    "max_samples": "5000",
    "devices": "1",
    "strategy": "ddp",
}
PUBLISHED_SWITCHES = ("validate_before_training", "skip_gpu_check")


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings that a ``lavic distill`` with these arguments would run with."""
    seen: list[DistillSettings] = []

    def keep(load: Any, run: Any, console: Any, *, go_on: str = "") -> int:
        seen.append(load())
        return 0

    monkeypatch.setattr("lavic.cli.output.execute", keep)

    def parse(*arguments: str) -> DistillSettings:
        program = typer.main.get_command(build_app("distill"))
        assert program.main(args=["distill", *arguments], prog_name="lavic", standalone_mode=False) == 0
        return seen.pop()

    return parse


@pytest.mark.parametrize(("name", "value"), PUBLISHED.items())
@pytest.mark.parametrize("dashes", [False, True])
def test_every_published_flag_is_accepted(parse: Any, name: str, value: str, dashes: bool) -> None:
    spelled = name.replace("_", "-") if dashes else name
    assert parse(f"--{spelled}", value) == DistillSettings.load(None, {name: value})
    assert parse(f"--{spelled}={value}") == parse(f"--{spelled}", value)


@pytest.mark.parametrize("name", PUBLISHED_SWITCHES)
def test_every_published_switch_is_accepted(parse: Any, name: str) -> None:
    assert getattr(parse(f"--{name}"), name) is True
    assert getattr(parse(f"--{name.replace('_', '-')}"), name) is True


def test_the_guides_whole_command_line_is_accepted(parse: Any) -> None:
    words = [word for name, value in PUBLISHED.items() for word in (f"--{name}", value)]
    found = parse(*words, *(f"--{name}" for name in PUBLISHED_SWITCHES))
    assert (found.model, found.batch_size, found.max_samples) == ("some/model", 4, 5000)


def test_the_last_of_two_wins_in_any_spelling(parse: Any) -> None:
    assert parse("--batch_size", "1", "--batch-size", "8").batch_size == 8
    assert parse("--model_name", "a", "--model", "b").model == "b"
    assert parse("--model", "a", "--model-name", "b").model == "b"


def test_a_switch_in_a_file_can_be_switched_off(parse: Any, tmp_path: Any) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("require_criteria: true\nbatch_size: 3\n", encoding="utf-8")
    assert parse("--config", str(config)).require_criteria is True
    found = parse("--config", str(config), "--no-require-criteria")
    assert (found.require_criteria, found.batch_size) == (False, 3)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_setting_says_what_it_is(command: Any) -> None:
    for name, field in load_object(command.settings).model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert field_extra(field, "panel"), name
