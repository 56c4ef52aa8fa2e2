"""A store that is replaced, a run that is stopped, and what other commands call."""

from __future__ import annotations

import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from embed.embed_world import ITEMS, digest, flags, fp32_flags, items_of
from model.hub_checkpoints import write_hub_checkpoint
from PIL import Image
from safetensors import safe_open
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.config import field_extra
from lavic.console import Console
from lavic.embed import compute
from lavic.embed.config import EmbedSettings
from lavic.embed.run import make_store
from lavic.embed.store import TOKENS_FILE, ItemStore, check_store
from lavic.layout import data_paths
from lavic.model.adapters import fingerprint
from lavic.model.load import load_base

# -- replacing, stopping -------------------------------------------------------------------------------------


def test_overwrite_replaces_a_store(shop: Path, adapters: list[Path], copy: Path, finished: Path) -> None:
    assert run_command_line(flags(shop, copy, adapter=adapters[1], overwrite=True, max_items=3)) == 0
    store = ItemStore(copy)
    assert (len(store), store.dtype) == (3, torch.bfloat16)
    assert store.about["adapter"]["fingerprint"] == fingerprint(adapters[1])
    assert run_command_line(fp32_flags(shop, copy, adapters, overwrite=True)) == 0
    assert digest(copy) == digest(finished)


def test_overwrite_keeps_the_old_store_until_the_new_one_can_be_made(
    shop: Path, adapters: list[Path], copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(copy)
    broken = Path(shutil.copytree(adapters[1], tmp_path / "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"half")
    assert "is damaged" in refused(capsys, flags(shop, copy, adapter=broken, overwrite=True))
    assert digest(copy) == before


def test_ctrl_c_keeps_whole_batches_and_the_same_command_goes_on(
    shop: Path,
    adapters: list[Path],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inner, store = compute._store, tmp_path / "s"

    def pressing(*arguments: Any) -> None:
        inner(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(compute, "_store", pressing)
    assert run_command_line(fp32_flags(shop, store, adapters)) == 130
    said = capsys.readouterr().err
    assert f"The tokens of 4 pictures are in {store}/." in said
    assert "Run the same command again; whole batches are stored" in said
    with safe_open(store / TOKENS_FILE, "pt") as stream:
        assert stream.get_slice("tokens").get_shape() == [4, 5, 128]
    assert ItemStore(store).unfinished
    monkeypatch.setattr(compute, "_store", inner)
    assert run_command_line(fp32_flags(shop, store, adapters)) == 0
    assert digest(store) == digest(finished)


def test_ctrl_c_while_stored_pictures_are_looked_at(
    shop: Path, adapters: list[Path], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, looked = digest(copy), []

    def pressing(*arguments: Any) -> bool:
        looked.append(arguments)
        if len(looked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr("lavic.embed.pending._is_unchanged", pressing)
    assert run_command_line(fp32_flags(shop, copy, adapters)) == 130
    assert digest(copy) == before


def test_going_on_with_another_batch_size_is_warned_of(
    shop: Path,
    adapters: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inner, store = compute._store, tmp_path / "s"

    def dying(*arguments: Any) -> None:
        inner(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(compute, "_store", dying)
    assert run_command_line(fp32_flags(shop, store, adapters)) == 130
    monkeypatch.setattr(compute, "_store", inner)
    assert run_command_line(fp32_flags(shop, store, adapters, batch_size=3)) == 0
    assert "The run began with batch_size 4, now 3: the last bits of the other tokens may differ." in (
        capsys.readouterr().err
    )
    assert len(ItemStore(store)) == ITEMS


# -- for other commands --------------------------------------------------------------------------------------


def test_make_store_gives_the_folder(shop: Path, tmp_path: Path) -> None:
    paths = data_paths(shop)
    settings = EmbedSettings(
        model="tiny",
        item_meta_path=paths["train_data"],
        train_images_dir=paths["train_images_dir"],
        output_dir=tmp_path / "s",
        max_items=2,
        num_workers=0,
    )
    console = Console(stdout=io.StringIO(), stderr=io.StringIO())
    assert len(ItemStore(make_store(settings, console))) == 2
    assert EmbedSettings.load(tmp_path / "s" / "config.yaml") == settings


@pytest.mark.parametrize(("family", "views"), [("llava", 1), ("llava_next", 5)])
def test_published_checkpoints_have_their_own_views_and_count_as_one_in_any_format(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, views: int
) -> None:
    model, store = tmp_path / "model", tmp_path / "s"
    write_hub_checkpoint(model, family)
    assert run_command_line(flags(shop, store, model=model, precision="bf16", max_items=5)) == 0
    found = ItemStore(store)
    assert (found.views, found.dim, found.about["view_size"]) == (views, 48, 28)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_store(found, load_base(str(model), dtype=dtype), None, where="--item_store")
    assert "other views" in refused(capsys, flags(shop, store, precision="bf16"))


def test_every_setting_says_what_it_is() -> None:
    for name, field in EmbedSettings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert field_extra(field, "panel") in EmbedSettings.panels, name


def test_pictures_of_any_kind_are_taken(world: Path, adapters: list[Path], tmp_path: Path) -> None:
    path = next(iter(items_of(world).values()))
    with Image.open(path) as image:
        image.convert("RGBA").save(path, "PNG")
    assert run_command_line(fp32_flags(world, tmp_path / "s", adapters, max_items=1)) == 0
    assert len(ItemStore(tmp_path / "s")) == 1
