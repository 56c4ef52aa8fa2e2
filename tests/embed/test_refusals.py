"""Other models, adapters and views, wrong flags and folders: one sentence, and nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from embed.embed_world import ITEMS, digest, flags, fp32_flags, items_of
from small_world import refused, skipped

from lavic.cli.main import run_command_line
from lavic.embed.store import ItemStore, check_store
from lavic.errors import InputError
from lavic.model.adapters import (
    LoraSettings,
    attach_language_lora,
    fingerprint,
    load_vision_adapter,
    merge,
    save_adapter,
)
from lavic.model.load import TINY_FOLDER, load_base


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"store_dtype": "bf16"}, "the store was made with --store_dtype fp32, not bf16."),
        ({"precision": "bf16"}, "the store was made with --precision fp32, not bf16."),
        ({"adapter": None}, "the store was made with another stage-1 adapter ({0}, not none)."),
        ({"adapter": 1}, "the store was made with another stage-1 adapter ({0}, not {1})."),
        ({"adapter": 1, "store_dtype": "bf16"}, "adapter ({0}, not {1}) and --store_dtype fp32, not bf16."),
    ],
)
def test_another_adapter_or_format_is_refused_before_a_model_is_loaded(
    shop: Path,
    adapters: list[Path],
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr("lavic.embed.run.load_base", None)
    before = digest(copy)
    if more.get("adapter"):
        more = {**more, "adapter": adapters[1]}
    sentence = refused(capsys, flags(shop, copy, **{"adapter": adapters[0], "store_dtype": "fp32", **more}))
    assert sentence.startswith(f"{copy}: the store was made with")
    assert said.format(*map(fingerprint, adapters)) in sentence
    assert sentence.endswith("choose another --output_dir, or make it anew with --overwrite.")
    assert digest(copy) == before


def other_model(folder: Path, **changes: Any) -> Path:
    """The tiny model with other weights in its tower, or other keys in its picture settings."""
    shutil.copytree(TINY_FOLDER, folder)
    settings = next(path for path in sorted(folder.glob("*processor_config.json")))
    text = settings.read_text()
    settings.write_text(text.replace("0.48145466", str(changes.pop("mean", 0.48145466))))
    if changes.pop("weights", False):
        model = load_base(str(TINY_FOLDER)).model
        with torch.no_grad():
            model.model.multi_modal_projector.linear_2.weight.mul_(1.5)
        model.save_pretrained(folder)
    assert not changes
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": True}, "the store was made with another model (tiny, not other)."),
        ({"mean": 0.5}, "the store was made with pictures normalised in another way."),
    ],
)
def test_another_model_is_refused_even_if_nothing_is_missing(
    shop: Path,
    adapters: list[Path],
    copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str,
) -> None:
    before, other = digest(copy), other_model(tmp_path / "other", **change)
    assert said in refused(capsys, fp32_flags(shop, copy, adapters, model=other))
    assert digest(copy) == before


def test_the_same_model_under_another_name_goes_on(
    shop: Path, adapters: list[Path], copy: Path, tmp_path: Path
) -> None:
    before = digest(copy)
    assert run_command_line(fp32_flags(shop, copy, adapters, model=other_model(tmp_path / "moved"))) == 0
    assert digest(copy) == before


def test_check_store_knows_model_adapter_and_views(
    shop: Path, adapters: list[Path], finished: Path, tmp_path: Path
) -> None:
    store = ItemStore(finished)
    check_store(store, load_base("tiny"), None, where="--item_store")
    check_store(store, load_base("tiny"), adapters[0], where="--item_store")
    check_store(store, load_base("tiny", dtype=torch.bfloat16), adapters[0], where="--item_store")
    beside = load_base("tiny")
    load_vision_adapter(beside.model, adapters[1])
    check_store(store, beside, adapters[0], where="--item_store")
    with pytest.raises(InputError) as caught:
        check_store(store, load_base("tiny"), adapters[1], where="--item_store")
    first, second = map(fingerprint, adapters)
    assert caught.value.sentence == (
        f"--item_store: the store was made with another stage-1 adapter ({first}, not {second}). Give what it was made "
        f"with, or make it anew: lavic embed --model tiny --adapter {adapters[1]} --output_dir {finished} --overwrite"
    )
    with pytest.raises(InputError, match=r"another model \(tiny, not other\)"):
        check_store(store, load_base(str(other_model(tmp_path / "other", weights=True))), None, where="--item_store")
    merged = load_base("tiny")
    merge(load_vision_adapter(merged.model, adapters[0]))
    with pytest.raises(InputError, match="other weights of the model tiny"):
        check_store(store, merged, None, where="--item_store")


def test_lora_on_the_language_model_does_not_make_another_model(finished: Path) -> None:
    base = load_base("tiny")
    for parameter in base.model.model.language_model.parameters():
        parameter.data.mul_(2)
    check_store(ItemStore(finished), base, None, where="--item_store")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"train_data": "none", "val_data": "none"}, "--item_meta_path and --val_data: both are none, so there are no"),
        ({"train_data": "gone.json"}, "gone.json: the file does not exist. Give --item_meta_path, or `none` to leave"),
        ({"val_data": "gone.jsonl"}, "gone.jsonl: the file does not exist. Give --val_data, or `none` to leave"),
        ({"train_images_dir": "gone"}, "gone: the folder with the pictures does not exist. Give --train_images_dir,"),
        ({"val_images_dir": "gone"}, "gone: the folder with the pictures does not exist. Give --val_images_dir,"),
        ({"adapter": "gone"}, "gone: no adapter here (adapter_config.json is missing)."),
        ({"model": "./gone"}, "./gone: there is no such folder."),
        ({"precision": "fp16"}, "--precision fp16: fp16 needs a GPU."),
        ({"batch_size": 0}, "--batch_size: 0 is too small; it must be at least 1."),
    ],
)
def test_wrong_flags_are_one_sentence_and_leave_no_folder(
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refused(capsys, flags(shop, tmp_path / "s", device="cpu", **more))
    assert sentence.startswith(said)
    assert not (tmp_path / "s").exists()


def test_an_adapter_of_the_language_model_is_refused_before_a_model_is_loaded(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = attach_language_lora(load_base("tiny").model, LoraSettings(r=2))
    save_adapter(wrapped, tmp_path / "a", base_name="tiny", card="")
    monkeypatch.setattr("lavic.embed.run.load_base", None)
    sentence = refused(capsys, flags(shop, tmp_path / "s", adapter=tmp_path / "a"))
    assert sentence.startswith(f"{tmp_path}/a: there is no LoRA on the vision tower in it, so it is no stage-1 adapter")
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"half")
    assert "adapter_model.safetensors: is damaged (" in refused(
        capsys, flags(shop, tmp_path / "s", adapter=tmp_path / "a")
    )
    assert not (tmp_path / "s").exists()


def test_metadata_without_items_or_pictures_is_one_sentence(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    for path in items_of(world).values():
        path.unlink()
    sentence = refused(capsys, flags(world, store))
    assert f"none of the {ITEMS} items has a picture; most frequent reason, {ITEMS} times: there is no" in sentence
    assert "Check --train_images_dir and --val_images_dir." in sentence
    assert len(skipped(store)) == ITEMS
    (world / "item2meta_train.json").write_text("{}")
    only_train = flags(world, store, val_data="none")
    assert refused(capsys, only_train).startswith(f"{world / 'item2meta_train.json'}: there are no items in it.")
    (world / "item2meta_train.json").write_text("")
    assert "item2meta_train.json" in refused(capsys, only_train)
    assert [path.name for path in store.iterdir() if path.name != ".lavic.lock"] == []


def test_a_folder_with_other_things_is_left_alone(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine")
    sentence = refused(capsys, flags(shop, tmp_path / "s"))
    assert sentence == (
        f"{tmp_path / 's'}/ holds 1 files or folders already (notes.txt). Replace it with --overwrite, or choose "
        "another --output-dir."
    )
    assert run_command_line(flags(shop, tmp_path / "s", overwrite=True, max_items=2)) == 0
    assert (tmp_path / "s" / "notes.txt").read_text() == "mine"


def test_a_damaged_ledger_is_one_sentence(
    shop: Path, adapters: list[Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"row": 3', b'"row": 5'))
    assert refused(capsys, fp32_flags(shop, copy, adapters)).startswith(f"{path}, line 5: this line of the ledger is")
    assert run_command_line(fp32_flags(shop, copy, adapters, overwrite=True)) == 0
