"""A store of all image tokens: the teacher's own, so many rows a picture as it has tokens; never mixed with five."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from embed.embed_world import digest, flags, items_of, ledger
from PIL import Image
from safetensors import safe_open
from small_world import refused

from lavic.cli.main import run_command_line
from lavic.embed.ledger import LEDGER_FILE
from lavic.embed.store import TOKENS_FILE, ItemStore
from lavic.images import read_image
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import load_base


def full_flags(world: Path, store: Path, **more: object) -> list[str]:
    return flags(world, store, image_tokens="all", store_dtype="fp32", **more)


@pytest.fixture
def shapes(world: Path) -> Path:
    """The shop, with pictures of several shapes: a wide and a tall one have other numbers of tokens."""
    for path, size in zip(items_of(world).values(), [(90, 40), (30, 100), (7, 7)], strict=False):
        Image.new("RGB", size, "red").save(path, "JPEG")
    return world


def test_every_picture_has_the_teachers_own_tokens(shapes: Path, tmp_path: Path) -> None:
    assert run_command_line(full_flags(shapes, tmp_path / "s")) == 0
    store, teacher = ItemStore(tmp_path / "s"), FullTokenModel(load_base("tiny"))
    assert (store.all_image_tokens, store.views) == (True, 1)
    assert list(store) == list(items_of(shapes))
    wanted = {}
    for item_id, path in items_of(shapes).items():
        (wanted[item_id],) = teacher.image_tokens([read_image(path)])
        assert store.tokens_of(item_id) == len(wanted[item_id])
        assert torch.equal(store.tokens([item_id])[:, 0], wanted[item_id])
    assert len({store.tokens_of(item_id) for item_id in store}) > 1
    some = list(store)[3::-1]
    assert torch.equal(store.tokens(some)[:, 0], torch.cat([wanted[item_id] for item_id in some]))
    assert store.tokens([]).shape == (0, 1, store.dim)
    with safe_open(tmp_path / "s" / TOKENS_FILE, "pt") as stream:
        assert torch.equal(stream.get_tensor("tokens"), store.tokens(list(store)))


def test_a_run_that_goes_on_leaves_the_same_bytes(shapes: Path, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert run_command_line(full_flags(shapes, whole)) == 0
    assert run_command_line(full_flags(shapes, again)) == 0
    lines = (again / LEDGER_FILE).read_bytes().splitlines(keepends=True)
    kept = next(at for at, line in enumerate(lines) if b'"finished"' in line)
    (again / LEDGER_FILE).write_bytes(b"".join(lines[: kept - 5]) + lines[kept][:7])
    assert run_command_line(full_flags(shapes, again, num_workers=2)) == 0
    assert digest(again) == digest(whole)
    assert all(json.loads(line)["rows"] > 1 for line in lines if b'"row"' in line)


def test_a_broken_picture_is_listed_and_the_others_are_stored(shapes: Path, tmp_path: Path) -> None:
    first, second = list(items_of(shapes).items())[:2]
    first[1].write_bytes(b"no picture")
    assert run_command_line(full_flags(shapes, tmp_path / "s")) == 0
    store = ItemStore(tmp_path / "s")
    assert first[0] not in store
    assert second[0] in store
    assert first[0] in {line["item"] for line in ledger(tmp_path / "s") if "missing" in line}


def test_five_and_all_are_never_mixed(
    shop: Path, adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(full_flags(shop, tmp_path / "all")) == 0
    assert run_command_line(flags(shop, tmp_path / "five", adapter="none", store_dtype="fp32")) == 0
    before = {name: digest(tmp_path / name) for name in ("all", "five")}
    five_into_all = flags(shop, tmp_path / "all", adapter="none", store_dtype="fp32")
    assert "made with all image tokens, not five" in refused(capsys, five_into_all)
    assert "made with five image tokens, not all" in refused(capsys, full_flags(shop, tmp_path / "five"))
    with_adapter = full_flags(shop, tmp_path / "new", adapter=adapters[0])
    assert "a stage-1 adapter is trained for five tokens" in refused(capsys, with_adapter)
    assert {name: digest(tmp_path / name) for name in ("all", "five")} == before
