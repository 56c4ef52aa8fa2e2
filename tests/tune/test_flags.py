"""The authors' flags of stage 2, of tuning and of evaluation, by name."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from lavic.cli.main import build_app
from lavic.evaluate.config import EvaluateSettings
from lavic.tune.config import ConversationSettings, TuneSettings

# Each with a value other than its default, and the field that it is.
PUBLISHED = {
    "model_dir": ("out/vision", "vision_adapter"),
    "candidate_type": ("candidates_gpt_large", "candidate_type"),
    "finetune_output_dir": ("./elsewhere", "output_dir"),
    "max_length": ("1024", "max_length"),
    "item_meta_path": ("../data/meta.json", "item_meta_path"),
    "image_dir": ("../data/images", "train_images_dir"),
    "category": ("all_beauty", "category"),
}
COMMANDS: dict[str, type[ConversationSettings]] = {"tune": TuneSettings, "evaluate": EvaluateSettings}


def parse(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: str) -> Any:
    """The settings that a command with these arguments would run with."""
    seen: list[Any] = []

    def keep(load: Any, run: Any, console: Any, *, go_on: str = "") -> int:
        seen.append(load())
        return 0

    monkeypatch.setattr("lavic.cli.output.execute", keep)
    program = typer.main.get_command(build_app(command))
    assert program.main(args=[command, *arguments], prog_name="lavic", standalone_mode=False) == 0
    return seen.pop()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_flag_is_accepted(monkeypatch: pytest.MonkeyPatch, command: str, name: str) -> None:
    value, field = PUBLISHED[name]
    wanted = COMMANDS[command].load(None, {field: value})
    assert getattr(wanted, field) != getattr(COMMANDS[command](), field)
    assert parse(monkeypatch, command, f"--{name}", value) == wanted
    assert parse(monkeypatch, command, f"--{name.replace('_', '-')}={value}") == wanted


@pytest.mark.parametrize("command", COMMANDS)
def test_the_published_command_line_is_accepted(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    words = [word for name, (value, _) in PUBLISHED.items() for word in (f"--{name}", value)]
    found = parse(monkeypatch, command, *words)
    assert (found.candidate_type, found.max_length, str(found.output_dir)) == ("gpt_large", 1024, "elsewhere")
