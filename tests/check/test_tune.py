"""``lavic check tune`` as a user calls it, on a toy shop with conversations and a store that ``lavic embed`` made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from check_document import checked, rows, tree
from safetensors.torch import load_file, save_file
from tune_world import data_flags, make_shop, rows_of, tune_flags, write_rows

from lavic.check.item_store import with_vision_side
from lavic.cli.main import run_command_line
from lavic.embed.identity import vision_mark
from lavic.embed.ledger import LEDGER_FILE
from lavic.embed.store import STORE_FILE, TOKENS_FILE
from lavic.layout import data_paths
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters, save_adapter
from lavic.model.load import TINY_FOLDER, inspect_base, load_base

UNKNOWN = "B0NOWHERE0"


@pytest.fixture(scope="session")
def pristine_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("pristine_shop"))


@pytest.fixture
def world(pristine_shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine_shop, tmp_path / "world"))


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two stage-1 adapters of the tiny model that differ in their weights alone."""
    folder, model = tmp_path_factory.mktemp("adapters"), load_base("tiny").model
    wrapped = attach_vision_lora(model, LoraSettings())
    for name in ("one", "other"):
        with torch.no_grad():
            for parameter in lora_parameters(wrapped).values():
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
        save_adapter(wrapped, folder / name, base_name="tiny", card="")
    return {name: folder / name for name in ("one", "other")}


def edit(world: Path, split: str, *changes: tuple[int, dict[str, Any]]) -> None:
    """Change keys of some rows, by their number."""
    changed = rows_of(world, split)
    for number, keys in changes:
        changed[number].update(keys)
    write_rows(world, split, changed)


# -- the whole -----------------------------------------------------------------------------------------------


def test_what_is_found_is_what_the_run_then_says(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tune_flags(world, tmp_path / "out", max_steps=2, max_samples=22)
    before = tree(tmp_path)
    document = checked(capsys, words, code=0)
    assert tree(tmp_path) == before
    assert rows(document, "warning") == rows(document, "no_go") == {}
    assert run_command_line(["check", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GO." in lines
    assert lines[-1].startswith("Next: lavic tune --model tiny --conversations ")
    assert lines[-1].endswith(f"--output_dir {tmp_path / 'out'} --log_dir {tmp_path / 'logs'}")
    assert run_command_line(lines[-1].removeprefix("Next: lavic ").split()) == 0
    start = json.loads((tmp_path / "out" / "events.jsonl").read_text().splitlines()[0])
    assert document["train"]["samples"] == start["train_samples"] == 22
    assert document["valid"]["samples"] == start["val_samples"] == 20
    assert document["steps"] == start["total_steps"] == 2
    assert document["model"]["trainable_parameters"] == start["trainable_parameters"]
    assert start["picture_share"] == 1
    assert document["train"]["candidates_without_picture"] == document["valid"]["candidates_without_picture"] == 0


def test_a_finished_run_in_the_folder_is_told_of(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tune_flags(world, tmp_path / "out", max_steps=1)
    assert run_command_line(words) == 0
    (row,) = rows(checked(capsys, words, code=1), "no_go").values()
    assert row["name"] == "output folder"
    assert f"{tmp_path / 'out'}: holds a run at step 1 (finished)" in row["found"]
    checked(capsys, [*words, "--overwrite"], code=0)
    config = ["tune", "--config", str(tmp_path / "out" / "config.yaml"), "--resume"]
    assert "nothing to go on with" in json.dumps(checked(capsys, config, code=0)["checks"])
    other = rows(checked(capsys, [*config, "--lr", "1e-4"], code=1), "no_go")["output folder"]["found"]
    assert "holds a run with other settings or data: --lr (was 0.003, is 0.0001)" in other


def test_a_folder_that_holds_something_else_is_no_go(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    stops = rows(checked(capsys, tune_flags(world, tmp_path / "full"), code=1), "no_go")
    assert list(stops) == ["output folder"]
    assert "thesis.txt" in stops["output folder"]["found"]


def test_wrong_flags_are_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["check", "tune", "--text_only", "--vision_adapter", "a"]) == 2
    problem = "--vision_adapter with --text_only: no picture is shown, so it would do nothing."
    assert capsys.readouterr().err == f"Error: {problem}\n"
    assert run_command_line(["check", "tune", "--thorough"]) == 2
    assert "`lavic check tune --help` lists what there is." in capsys.readouterr().err


# -- conversations -------------------------------------------------------------------------------------------


def test_bad_rows_are_counted_and_listed_by_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(world, "train", (2, {"candidates_st": "B01"}), (3, {"candidates_st": []}), (4, {"gt_items": []}))
    path = world / "shop" / "toy_shop" / "train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[2:]]) + "\n")
    document = checked(capsys, tune_flags(world, tmp_path / "out"), code=0)
    train, warned = document["train"], rows(document, "warning")
    assert (train["rows"], train["bad_rows"], train["without_right_item"], train["samples"]) == (24, 3, 1, 20)
    assert train["bad_row_list"] == [
        "line 2: the line is not valid JSON",
        "line 3: the value is text, not a list",
        "line 4: the list is empty",
    ]
    assert (
        "rows that cannot be used: 3 of 24 (12.5 %); line 2: the line is not"
        in (warned["training conversations"]["found"])
    )
    assert "conversations without one: 1" in warned["training right items"]["found"]
    assert warned.keys() == {"training conversations", "training right items"}
    stops = rows(checked(capsys, tune_flags(world, tmp_path / "out", max_left_out=0.1), code=1), "no_go")
    assert "20 samples; rows left out: 4 of 24 (16.7 %)" in stops["training samples"]["found"]
    # What is left out on the way to --max_samples does not matter.
    checked(capsys, tune_flags(world, tmp_path / "out", max_left_out=0.1, max_samples=20), code=0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(Path.unlink, "there is no such file"), (lambda path: path.write_text(""), "empty")],
    ids=["missing", "empty"],
)
def test_a_file_of_conversations_that_cannot_be_read_is_no_go_and_the_rest_is_checked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], words: str
) -> None:
    spoil(world / "shop" / "toy_shop" / "valid.jsonl")
    document = checked(capsys, tune_flags(world, tmp_path / "out"), code=1)
    assert words in rows(document, "no_go")["validation conversations"]["found"]
    assert document["train"]["samples"] == 24
    assert rows(document, "ok").keys() >= {"model", "item store", "training samples", "disk", "output folder"}


def test_the_test_file_is_no_reason_against_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "shop" / "toy_shop" / "test.jsonl").unlink()
    document = checked(capsys, tune_flags(world, tmp_path / "out"), code=0)
    (row,) = rows(document, "warning").values()
    assert row["name"] == "test conversations"
    assert row["remedy"].startswith("Only lavic evaluate reads this file.")


def test_a_list_of_candidates_that_no_row_has_is_no_go(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = checked(capsys, tune_flags(world, tmp_path / "out", candidate_type="candidates_gpt"), code=1)
    row = rows(document, "no_go")["training conversations"]
    assert "no row has candidates_gpt" in row["found"]
    assert row["remedy"] == "It has: candidates_gpt_large, candidates_st."


def test_right_items_that_are_not_among_the_candidates_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [row["candidates_st"][:] for row in rows_of(world, "train")]
    for candidates, row in zip(others, rows_of(world, "train"), strict=True):
        candidates[candidates.index(row["gt_items"][0])] = UNKNOWN
    edit(world, "train", *((number, {"candidates_st": others[number]}) for number in range(3)))
    edit(world, "valid", *((number, {"gt_items": [UNKNOWN]}) for number in range(5)))
    document = checked(capsys, tune_flags(world, tmp_path / "out"), code=0)
    # The unknown candidate made place for the right one, or another did: one line each.
    assert document["train"]["right_item_put_in"] == 3
    assert document["valid"]["right_item_among_candidates"] == 15
    found = rows(document, "ok")["validation right items"]["found"]
    assert found == "among the candidates: 15 of 20 (75 %), the ceiling of HR@1"


def test_no_right_item_among_any_candidates_is_no_go(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(world, "valid", *((number, {"gt_items": [UNKNOWN]}) for number in range(20)))
    stops = rows(checked(capsys, tune_flags(world, tmp_path / "out"), code=1), "no_go")
    assert list(stops) == ["validation right items"]
    edit(world, "train", *((number, {"gt_items": []}) for number in range(24)))
    stops = rows(checked(capsys, tune_flags(world, tmp_path / "out"), code=1), "no_go")
    assert "24 x there is no right item" in stops["training samples"]["found"]


def test_candidates_that_nothing_is_known_of_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        row = rows_of(world, "valid")[number]
        edit(world, "valid", (number, {"candidates_st": [*row["candidates_st"], UNKNOWN, row["candidates_st"][0]]}))
    document = checked(capsys, tune_flags(world, tmp_path / "out"), code=0)
    valid = document["valid"]
    assert (valid["candidates"], valid["candidates_listed_twice"]) == (82, 2)
    assert (valid["candidates_without_metadata"], valid["candidates_without_picture"]) == (2, 2)
    row = rows(document, "warning")["validation candidates"]
    assert "without metadata: 2 of 82 (2.44 %), 1 item; without a picture: 2 of 82 (2.44 %), 1 item" in row["found"]


def test_prompts_that_are_too_long_are_told_of(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = rows_of(world, "train")[5]["context"]
    edit(world, "train", (5, {"context": context + " it is a red mug" * 1000}))
    words = tune_flags(world, tmp_path / "out", max_length=300)
    document = checked(capsys, words, code=0)
    assert (document["train"]["shortened"], document["train"]["too_long"]) == (1, 0)
    # Of 300 tokens one is kept free for each of the 4 candidates.
    assert 250 < document["train"]["tokens"]["longest"] <= 296
    assert rows(document, "warning")["training prompts"]["remedy"].startswith("Shortened conversations lose")
    # The candidates' 20 placeholders, IDs and titles alone take more than that.
    stops = rows(checked(capsys, tune_flags(world, tmp_path / "out", max_length=64), code=1), "no_go")
    reason = "24 x candidates and answer alone are longer than --max_length"
    assert stops["training samples"]["found"] == f"0 samples; rows left out: 24 of 24 (100 %); {reason}"


# -- titles and the item store -------------------------------------------------------------------------------


def test_metadata_that_cannot_be_used_are_no_go_and_the_rest_is_checked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tune_flags(world, tmp_path / "out", item_meta_path=tmp_path / "none.json")
    document = checked(capsys, words, code=1)
    assert list(rows(document, "no_go")) == ["titles"]
    assert document["train"]["candidates_without_metadata"] is None
    document = checked(capsys, tune_flags(world, tmp_path / "out", item_meta_path="none", val_data="none"), code=0)
    assert rows(document, "warning")["titles"]["remedy"] == "Every item is shown as 'No Title': give --item_meta_path."
    assert document["train"]["candidates_without_metadata"] == 96


def test_a_store_of_another_model_is_no_go(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(shutil.copytree(TINY_FOLDER, tmp_path / "tiny"))
    weights = load_file(model / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("multi_modal_projector.linear_2.bias"))
    save_file({**weights, name: weights[name] + 1}, model / "model.safetensors", metadata={"format": "pt"})
    stops = rows(checked(capsys, tune_flags(world, tmp_path / "out", model=model), code=1), "no_go")
    assert list(stops) == ["item store and model"]
    assert "the store was made with other weights of the model tiny" in stops["item store and model"]["found"]


def test_a_stores_adapter_is_compared(
    world: Path, tmp_path: Path, adapters: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--{name}={path}" for name, path in data_paths(world / "shop").items()]
    words += ["--model", "tiny", "--adapter", str(adapters["one"]), "--max_items", "260", "--num_workers", "0"]
    assert run_command_line(["embed", *words, "--output_dir", str(tmp_path / "store")]) == 0
    usual = {"item_store": tmp_path / "store"}
    document = checked(capsys, tune_flags(world, tmp_path / "out", vision_adapter=adapters["one"], **usual), code=0)
    assert "--vision_adapter is the one" in rows(document, "ok")["item store and model"]["found"]
    items = list(json.loads((world / "shop" / "item2meta_train.json").read_text()))
    lines = (world / "shop" / "item2meta_valid.jsonl").read_text().splitlines()
    items += [json.loads(line)["image_name"].removesuffix("_0.jpg") for line in lines]
    listed = [item for row in rows_of(world, "valid") for item in row["candidates_st"]]
    missing = sum(item not in items[:260] for item in listed)
    assert document["valid"]["candidates_without_picture"] == missing > 0
    document = checked(capsys, tune_flags(world, tmp_path / "out", vision_adapter=adapters["other"], **usual), code=1)
    assert "another stage-1 adapter" in rows(document, "no_go")["item store and model"]["found"]
    # Without the model, the adapter can be compared all the same.
    usual["model"] = tmp_path / "no_model"
    document = checked(capsys, tune_flags(world, tmp_path / "out", vision_adapter=adapters["other"], **usual), code=1)
    assert "another stage-1 adapter" in rows(document, "no_go")["item store and model"]["found"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "there is no item store"),
        (lambda store: (store / STORE_FILE).write_text("{}"), "this is not what describes an item store"),
        (lambda store: (store / TOKENS_FILE).write_bytes(b""), "holds fewer than the 300 rows of the ledger"),
    ],
    ids=["missing", "another file", "cut off"],
)
def test_a_store_that_does_not_open_is_no_go_and_the_rest_is_checked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], words: str
) -> None:
    spoil(world / "store")
    document = checked(capsys, tune_flags(world, tmp_path / "out"), code=1)
    stops = rows(document, "no_go")
    assert list(stops) == ["item store"]
    assert words in stops["item store"]["found"]
    assert document["train"]["candidates_without_picture"] is None
    assert document["valid"]["right_item_among_candidates"] == 20


def test_a_store_of_other_items_is_no_go(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = world / "store" / LEDGER_FILE
    items = [row["candidates_st"] for split in ("train", "valid", "test") for row in rows_of(world, split)]
    text = ledger.read_text()
    for item in {item for listed in items for item in listed}:
        text = text.replace(item, item[::-1])
    ledger.write_text(text)
    stops = rows(checked(capsys, tune_flags(world, tmp_path / "out"), code=1), "no_go")
    assert stops.keys() == {"training candidates", "validation candidates"}
    assert "--text_only to tune without pictures" in stops["training candidates"]["remedy"]


def test_a_store_that_the_run_will_make_is_foreseen(
    world: Path, tmp_path: Path, adapters: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(world / "store")
    paths = data_paths(world / "shop")
    gone = rows_of(world, "train")[0]["candidates_st"][0]
    for folder in (paths["train_images_dir"], paths["val_images_dir"]):
        (folder / f"{gone}_0.jpg").unlink(missing_ok=True)
    folders = {name: paths[name] for name in ("train_images_dir", "val_images_dir")}  # type: ignore[literal-required]
    words = tune_flags(world, tmp_path / "out", vision_adapter=adapters["one"], **folders)
    document = checked(capsys, words, code=0)
    found = rows(document, "warning")["item store"]["found"]
    assert "will be made, before training begins; 299 items of 300 with a picture" in found
    assert "it takes 0.4 MB" in found  # 299 x 5 x 128 bf16 numbers
    listed = [item for row in rows_of(world, "train") for item in row["candidates_st"]]
    assert document["train"]["candidates_without_picture"] == listed.count(gone)
    assert not (world / "store").exists()
    words = tune_flags(world, tmp_path / "out", vision_adapter=adapters["one"], train_images_dir=tmp_path / "none")
    assert "does not exist" in rows(checked(capsys, words, code=1), "no_go")["item store"]["found"]


def test_without_pictures_no_store_is_needed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(world / "store")
    document = checked(capsys, tune_flags(world, tmp_path / "out", text_only=True), code=0)
    assert rows(document, "warning") == {}
    assert document["train"]["candidates_without_picture"] is None


def test_the_vision_side_alone_tells_whether_a_model_made_a_store(tmp_path: Path) -> None:
    seen = with_vision_side(inspect_base("tiny")).model
    assert vision_mark(seen) == vision_mark(load_base("tiny").model)
    assert {parameter.device.type for parameter in seen.model.language_model.parameters()} == {"meta"}
    # As the public checkpoints are: in several files, under the names of transformers before 4.52, in fp16.
    old = Path(shutil.copytree(TINY_FOLDER, tmp_path / "old"))
    weights = load_file(old / "model.safetensors")
    (old / "model.safetensors").unlink()
    new_name, old_name = "vision_tower.", "vision_tower.vision_model."
    renamed = {name.replace(new_name, old_name): tensor.half() for name, tensor in weights.items()}
    assert renamed.keys() != weights.keys()
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    places = {name: files[number % 2] for number, name in enumerate(renamed)}
    for file in files:
        part = {name: tensor for name, tensor in renamed.items() if places[name] == file}
        save_file(part, old / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (old / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_base(str(old), dtype=torch.bfloat16).model
    assert vision_mark(with_vision_side(inspect_base(str(old))).model) == vision_mark(loaded)


# -- machine -------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_there_is_no_go_and_rows_are_checked_all_the_same(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = checked(capsys, tune_flags(world, tmp_path / "out", model=tmp_path / "nothing"), code=1)
    assert list(rows(document, "no_go")) == ["model"]
    assert rows(document, "warning").keys() == {"item store and model"}
    assert (document["train"]["samples"], document["train"]["tokens"]) == (24, {})
    assert document["valid"]["right_item_among_candidates"] == 20


def test_want_of_memory_and_of_disk_are_no_go(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lavic.check.machine.available_memory", lambda: 3e8)
    usage = shutil.disk_usage(tmp_path)._replace(free=10**5)
    monkeypatch.setattr("lavic.check.output.shutil.disk_usage", lambda path: usage)
    document = checked(capsys, tune_flags(world, tmp_path / "out", device="cpu", lora_r=4, lm_head=True), code=1)
    stops = rows(document, "no_go")
    assert stops.keys() == {"memory (estimate)", "disk"}
    assert "300.0 MB are free" in stops["memory (estimate)"]["found"]
    # By hand: six layers of 128 wide, keys and values 64 wide, an MLP of 384; the output layer to 3,344 tokens.
    layer = 2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 384)
    trained = 4 * (6 * layer + 128 + 3344)
    assert document["model"]["trainable_parameters"] == trained
    assert document["disk"]["needed_bytes"] == 2 * 4 * trained + 2 * 12 * trained + 6 * 900 + 1_000_000


def test_the_flags_of_both_commands_are_the_same(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = data_flags(world, published=True, output_dir=tmp_path / "out", log_dir=tmp_path / "logs")
    assert run_command_line(["check", "tune", *words]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "--published" in last
    assert "candidate_type" not in last
    checked(capsys, last.removeprefix("Next: lavic ").split(), code=0)
