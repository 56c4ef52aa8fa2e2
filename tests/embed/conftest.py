"""A shop, two stage-1 adapters, and a store made with the first: made once, copied where a test changes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from embed.embed_world import ITEMS, flags, make_adapter
from small_world import make_world

from lavic.cli.main import run_command_line


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("shop") / "w", ITEMS)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(folder / f"stage1_{seed}", seed) for seed in (1, 2)]


@pytest.fixture(scope="session")
def finished(shop: Path, adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all items in fp32, with the first adapter."""
    store = tmp_path_factory.mktemp("finished") / "s"
    assert run_command_line(flags(shop, store, adapter=adapters[0], store_dtype="fp32")) == 0
    return store


@pytest.fixture
def world(shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop, tmp_path / "w"))


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "s"))
