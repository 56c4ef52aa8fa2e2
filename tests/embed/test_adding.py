"""A store is added to: new items, more pictures, exchanged, broken and missing ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from embed.embed_world import ITEMS, digest, flags, fp32_flags, items_of, ledger
from safetensors import safe_open
from small_world import skipped

from lavic.cli.main import run_command_line
from lavic.embed.pictures import PictureBatch
from lavic.embed.store import TOKENS_FILE, ItemStore
from lavic.embed.towers import FiveTokenTower

# -- adding to a store ---------------------------------------------------------------------------------------


def test_a_second_run_loads_no_model_and_touches_nothing(
    shop: Path, adapters: list[Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, times = digest(copy), [(copy / name).stat().st_mtime_ns for name in digest(copy)]
    assert run_command_line([*fp32_flags(shop, copy, adapters), "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["pictures_embedded"], summary["pictures_unchanged"]) == (0, ITEMS)
    assert "Loading" not in captured.err
    assert digest(copy) == before
    assert [(copy / name).stat().st_mtime_ns for name in before] == times


def test_a_store_grows_item_by_item(shop: Path, adapters: list[Path], finished: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    assert run_command_line(fp32_flags(shop, store, adapters, max_items=5)) == 0
    assert list(ItemStore(store)) == list(items_of(shop))[:5]
    first = (store / TOKENS_FILE).read_bytes()[4096:]
    assert run_command_line(fp32_flags(shop, store, adapters)) == 0
    assert (store / TOKENS_FILE).read_bytes()[4096:].startswith(first)
    whole, grown = ItemStore(finished), ItemStore(store)
    assert list(grown) == list(whole)
    torch.testing.assert_close(grown.tokens(list(whole)), whole.tokens(list(whole)), rtol=1e-4, atol=1e-5)
    with safe_open(store / TOKENS_FILE, "pt") as stream:
        assert stream.get_slice("tokens").get_shape() == [ITEMS, 5, 128]


def test_either_file_may_be_left_out(shop: Path, adapters: list[Path], tmp_path: Path) -> None:
    store, nowhere = tmp_path / "s", tmp_path / "nowhere"
    valid = fp32_flags(shop, store, adapters, train_data="none", train_images_dir=nowhere)
    assert run_command_line(valid) == 0
    assert list(ItemStore(store)) == list(items_of(shop))[-3:]
    train = [word if word != "--train_images_dir" else "--image_dir" for word in fp32_flags(shop, store, adapters)]
    assert run_command_line([*train, "--val_data", "none"]) == 0
    assert sorted(ItemStore(store)) == sorted(items_of(shop))


def test_a_picture_that_was_exchanged_gets_a_new_row_and_no_other_does(
    world: Path, adapters: list[Path], copy: Path
) -> None:
    ids, paths = list(items_of(world)), list(items_of(world).values())
    old = ItemStore(copy)
    before = old.tokens(ids)
    sizes = [path.stat().st_size for path in paths]
    small, large = sizes.index(min(sizes)), sizes.index(max(sizes))
    time = paths[large].stat().st_mtime_ns
    # The same size and time, so that only the bytes tell; behind a JPEG's end anything may stand.
    paths[large].write_bytes(paths[small].read_bytes().ljust(max(sizes), b"\0"))
    os.utime(paths[large], ns=(time, time))
    os.utime(paths[small])  # touched, not changed
    assert run_command_line(fp32_flags(world, copy, adapters)) == 0
    after = ItemStore(copy).tokens(ids)
    assert [line["item"] for line in ledger(copy) if line.get("row", 0) >= ITEMS] == [ids[large]]
    assert [place for place in range(ITEMS) if not torch.equal(before[place], after[place])] == [large]
    torch.testing.assert_close(after[large], before[small], rtol=1e-4, atol=1e-5)
    assert torch.equal(old.tokens(ids), before)


def test_several_pictures_of_an_item(world: Path, adapters: list[Path], tmp_path: Path) -> None:
    ids, paths = list(items_of(world)), list(items_of(world).values())
    shutil.copy(paths[3], paths[0].with_name(f"{ids[0]}_1.jpg"))
    shutil.copy(paths[4], paths[0].with_name(f"{ids[0]}_2.jpg"))
    shutil.copy(paths[4], paths[1].with_name(f"{ids[1]}_2.jpg"))
    paths[1].unlink()
    store = tmp_path / "s"
    assert run_command_line(fp32_flags(world, store, adapters, images_per_item=2)) == 0
    found = ItemStore(store)
    assert [found.images_of(item_id) for item_id in (ids[0], ids[2])] == [2, 1]
    assert dict(found.missing) == {ids[1]: "there is no such picture"}
    assert run_command_line(fp32_flags(world, store, adapters, images_per_item=3)) == 0
    found = ItemStore(store)
    assert [found.images_of(item_id) for item_id in ids[:3]] == [3, 1, 1]
    assert dict(found.missing) == {}
    third = found.tokens([ids[3], ids[4], ids[4]])
    mine = torch.cat([found.tokens([ids[0]], image=1), found.tokens([ids[0]], image=2), found.tokens([ids[1]])])
    torch.testing.assert_close(mine, third, rtol=1e-4, atol=1e-5)
    assert skipped(store) == [], "that an item has fewer pictures is no problem"


def test_an_item_in_both_files_counts_once_and_may_lie_in_either_folder(
    world: Path, adapters: list[Path], tmp_path: Path
) -> None:
    ids, paths = list(items_of(world)), list(items_of(world).values())
    train = json.loads((world / "item2meta_train.json").read_text())
    train[ids[-1]] = {"title": "again"}
    (world / "item2meta_train.json").write_text(json.dumps(train))
    assert paths[-1].parent.name == "valid_images"
    assert run_command_line(fp32_flags(world, tmp_path / "s", adapters)) == 0
    assert sorted(ItemStore(tmp_path / "s")) == sorted(ids)
    assert len([line for line in ledger(tmp_path / "s") if "row" in line]) == ITEMS


# -- pictures that cannot be used ----------------------------------------------------------------------------


def test_bad_pictures_are_counted_listed_and_taken_once_they_are_good(
    world: Path, adapters: list[Path], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, paths = list(items_of(world)), list(items_of(world).values())
    good = [path.read_bytes() for path in paths]
    paths[0].unlink()
    paths[1].write_bytes(good[1][: len(good[1]) // 2])
    paths[2].write_bytes(b"<!doctype html><html>")
    paths[3].unlink()
    paths[3].mkdir()
    paths[4].write_bytes(b"")
    reasons = {
        ids[0]: "there is no such picture",
        ids[3]: "is a folder",
        ids[4]: "the file is empty (0 bytes)",
        ids[1]: "the image is cut off",
        ids[2]: "the file is an HTML page, not an image",
    }
    store = tmp_path / "s"
    assert run_command_line([*fp32_flags(world, store, adapters), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["pictures_embedded"], summary["items_without_tokens"], summary["skipped"]) == (ITEMS - 5, 5, 5)
    listed = {row["key"]: row["reason"] for row in skipped(store)}
    assert listed == {f"{item_id}_0.jpg": reason for item_id, reason in reasons.items()}
    assert {row["where"].rsplit(", ", 1)[-1] for row in skipped(store)} == {f"item {item_id}" for item_id in ids[:5]}
    found = ItemStore(store)
    assert dict(found.missing) == reasons
    assert list(found.missing) == ids[:5], "in the order of the metadata"
    assert list(found) == ids[5:]
    # The same again: what is still bad is told again, without a model.
    before = digest(store)
    assert run_command_line(fp32_flags(world, store, adapters)) == 0
    assert "Loading" not in capsys.readouterr().err
    assert digest(store) == before
    assert {row["key"]: row["reason"] for row in skipped(store)} == listed
    paths[3].rmdir()
    for path, data in zip(paths[:4], good[:4], strict=True):
        path.write_bytes(data)
    assert run_command_line([*fp32_flags(world, store, adapters), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures_embedded"] == 4
    repaired, whole = ItemStore(store), ItemStore(finished)
    assert list(repaired.missing) == ids[4:5]
    torch.testing.assert_close(repaired.tokens(ids[:4]), whole.tokens(ids[:4]), rtol=1e-4, atol=1e-5)


def test_a_picture_that_breaks_or_goes_later_leaves_its_tokens(
    world: Path, adapters: list[Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, before = list(items_of(world).values()), digest(copy)
    paths[0].write_bytes(b"not a picture")
    paths[1].unlink()
    assert run_command_line([*fp32_flags(world, copy, adapters), "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert "Loading" not in captured.err
    assert [row["key"] for row in skipped(copy)] == [paths[0].name]
    assert summary["notes"] == {"pictures that are gone; their tokens stay": 1}
    assert summary["items_without_tokens"] == 0
    assert digest(copy) == before


def test_no_token_is_ever_not_finite(
    shop: Path, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = FiveTokenTower.tokens

    def overflowing(self: FiveTokenTower, batch: PictureBatch) -> list[torch.Tensor]:
        tokens = [each.clone() for each in inner(self, batch)]
        tokens[1][0, 2, 3] = 70_000.0  # fits into fp32 and bf16, not into fp16
        return tokens

    monkeypatch.setattr(FiveTokenTower, "tokens", overflowing)
    store = tmp_path / "s"
    assert run_command_line(flags(shop, store, adapter=adapters[0], store_dtype="fp16", max_items=4)) == 0
    ids = list(items_of(shop))
    assert dict(ItemStore(store).missing) == {ids[1]: "its visual tokens are not finite numbers"}
    assert list(ItemStore(store)) == [ids[0], ids[2], ids[3]]


def test_hostile_ids_name_no_file_and_end_no_run(
    world: Path, adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = next(iter(items_of(world).values())).read_bytes()
    (world / "outside_0.jpg").write_bytes(picture)
    good = ["Ü 名", "0-306.40615-2", "a'b\"c", "x" * 220]
    bad = ["../outside", str(world / "outside"), "", ".hidden", "a\nb", "a\0b", "</s>", "x" * 229, "\ud83d"]
    rows: dict[str, Any] = {item_id: {} for item_id in bad}
    for item_id in good:
        (world / "train_images" / f"{item_id}_0.jpg").write_bytes(picture)
        rows[item_id] = {"title": None, "images": "none"}
    rows |= {"number": 3, "null": None, "list": []}
    (world / "item2meta_train.json").write_text(json.dumps(rows))
    (world / "item2meta_valid.jsonl").write_text(
        '{"image_name": "../../outside_0.jpg"}\nno json\n{"title": "no name"}\n{"image_name": "._0.jpg"}\n'
    )
    assert run_command_line([*fp32_flags(world, tmp_path / "s", adapters), "--json"]) == 0
    store = ItemStore(tmp_path / "s")
    assert list(store) == good
    summary = json.loads(capsys.readouterr().out)
    assert summary["reasons"]["the name holds a path separator"] == 4
    assert summary["reasons"]["the name is longer than 230 bytes"] == 1
    # Only what could have had a picture is an item without one.
    assert dict(store.missing) == {"x" * 229: "the name is longer than 230 bytes"}
