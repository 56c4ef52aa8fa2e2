"""A shop with two recommenders: made once, copied where a test changes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tune_world import make_shop, tune_flags

from lavic.cli.main import run_command_line


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a recommender that sees, one that does not, and a second store."""
    world = make_shop(tmp_path_factory.mktemp("shop"))
    assert run_command_line(tune_flags(world, world / "tuned")) == 0
    assert run_command_line(tune_flags(world, world / "text", text_only=True, item_store=None)) == 0
    return world


@pytest.fixture
def world(shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop, tmp_path / "world"))
