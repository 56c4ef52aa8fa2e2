import json
import re
from pathlib import Path

import pytest
from PIL import Image

from lavic.errors import ConfigError, OutputError
from lavic.formats import SkipLog, read_train_metadata, read_valid_metadata
from lavic.toyshop.catalogue import NAMES, SERVED, CatalogueCounts, plan_catalogue, write_catalogue
from lavic.toyshop.config import ToyshopSettings
from lavic.toyshop.conversations import CATEGORY
from lavic.toyshop.kinds import COLOURS, KINDS, PATTERNS


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toyshop") / "catalogue"
    write_catalogue(folder, 30, seed=4)
    return folder


def test_a_fifth_is_for_validation_and_every_item_has_one_picture(tmp_path):
    counts = write_catalogue(tmp_path / "c", 20, seed=0)
    assert counts == CatalogueCounts(16, 4, train_combinations=16, valid_combinations=4)
    assert counts.items == 20
    assert len(list((tmp_path / "c/train_images").iterdir())) == 16
    assert len(list((tmp_path / "c/valid_images").iterdir())) == 4


def test_twelve_items_are_enough_and_eleven_are_refused(tmp_path):
    assert write_catalogue(tmp_path / "twelve", 12, seed=0).valid_items == 2
    with pytest.raises(ConfigError, match=r"items: 11 items are too few .* Give at least 12"):
        write_catalogue(tmp_path / "eleven", 11, seed=0)
    assert not (tmp_path / "eleven").exists()


def test_lavic_reads_the_catalogue_without_skipping_anything(catalogue):
    skipped = SkipLog()
    train = list(read_train_metadata(catalogue / "item2meta_train.json", skipped))
    valid = list(read_valid_metadata(catalogue / "item2meta_valid.jsonl", skipped))
    assert (len(train), len(valid)) == (24, 6)
    for folder, rows in (("train_images", train), ("valid_images", valid)):
        assert {row.image_name for row in rows} == {path.name for path in (catalogue / folder).iterdir()}


def test_the_rows_have_the_keys_of_the_public_data_set(catalogue):
    text = (catalogue / "item2meta_train.json").read_text()
    assert text.isascii()
    item_id, row = next(iter(json.loads(text).items()))
    assert re.fullmatch("B0[0-9A-Z]{8}", item_id)
    assert list(row) == [
        "title", "categories", "features", "description", "images", "image_descriptions_llava_cleaned",
    ]  # fmt: skip
    assert row["images"] == [{"large": f"https://toyshop.invalid/I/{item_id}_0.jpg"}]
    assert list(row["image_descriptions_llava_cleaned"]) == [f"{item_id}_0.jpg"]
    line = json.loads((catalogue / "item2meta_valid.jsonl").read_text().splitlines()[0])
    assert list(line) == ["title", "image_name", "image", "image_description_llava_cleaned"]
    assert line["image"] == f"https://toyshop.invalid/I/{line['image_name']}"


def test_pictures_are_jpeg_of_224_px(catalogue):
    for path in [*(catalogue / "train_images").iterdir(), *(catalogue / "valid_images").iterdir()]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (224, 224))


def test_combinations_of_validation_are_never_trained_on():
    train, valid = plan_catalogue(1500, seed=9)
    assert not {item.look.combination for item in train} & {item.look.combination for item in valid}
    ids = [item.item_id for item in train + valid]
    assert len(set(ids)) == len(ids) == 1500


def test_all_but_the_description_says_nothing_about_the_look(catalogue):
    details = {word for kind in KINDS.values() for detail in kind.details for word in detail.split()[1:]}
    words = {*COLOURS, *PATTERNS, *details, *(word for kind in KINDS for word in re.split("[ -]", kind))} - {"t"}
    told = []
    for row in json.loads((catalogue / "item2meta_train.json").read_text()).values():
        del row["image_descriptions_llava_cleaned"], row["images"]
        told.append(json.dumps(row))
    for side in plan_catalogue(600, seed=2):
        told += [item.title for item in side]
    for text in told:
        assert not words & set(re.findall("[a-z]+", text.lower())), text


def test_ids_and_titles_do_not_depend_on_the_number_of_items():
    few, many = plan_catalogue(20, seed=5)[0], plan_catalogue(200, seed=5)[0]
    assert [(item.item_id, item.title, item.look) for item in few] == [
        (item.item_id, item.title, item.look) for item in many[: len(few)]
    ]


def test_two_processes_write_the_same_bytes_as_one(catalogue, tmp_path):
    seen = []
    write_catalogue(tmp_path / "c", 30, seed=4, workers=2, on_progress=lambda *args: seen.append(args))
    first, second = contents(catalogue), contents(tmp_path / "c")
    first.pop(".lavic.lock"), second.pop(".lavic.lock")
    assert first == second
    assert seen == [(done, 30) for done in range(1, 31)]


def test_another_seed_gives_other_ids_and_pictures():
    first, second = (plan_catalogue(12, seed=seed)[0] for seed in (0, 1))
    assert not {item.item_id for item in first} & {item.item_id for item in second}


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        OutputError, match=r"holds 1 files or folders already \(notes.txt\)\. Replace it with --overwrite"
    ):
        write_catalogue(tmp_path, 12, seed=0)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".lavic.lock"}


@pytest.mark.parametrize("name", ["train_images/B000000000_0.jpg", "item2meta_train.json"])
def test_overwrite_never_replaces_what_was_not_drawn(tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("days of crawling")
    with pytest.raises(OutputError, match="holds data that this command did not make, so it is not replaced"):
        write_catalogue(tmp_path, 12, seed=0, overwrite=True)
    assert mine.read_text() == "days of crawling"


def test_a_catalogue_cut_short_can_be_drawn_again(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_catalogue(tmp_path, 12, seed=0, on_progress=stop)
    assert write_catalogue(tmp_path, 12, seed=0, overwrite=True).items == 12


def test_overwrite_replaces_the_catalogue_and_nothing_else(tmp_path):
    write_catalogue(tmp_path, 16, seed=1)
    (tmp_path / "notes.txt").write_text("mine")
    write_catalogue(tmp_path, 12, seed=2, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES, "notes.txt", ".lavic.lock"} - {SERVED, CATEGORY}
    assert len(list((tmp_path / "train_images").iterdir())) == 10


def test_a_catalogue_cut_short_has_no_metadata(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_catalogue(tmp_path / "c", 12, seed=0, on_progress=stop)
    assert not (tmp_path / "c/item2meta_train.json").exists()
    assert not (tmp_path / "c/item2meta_valid.jsonl").exists()


def test_a_negative_number_of_processes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="workers: -1 is not a number of processes"):
        write_catalogue(tmp_path / "c", 12, seed=0, workers=-1)


def test_served_pictures_lie_in_one_folder_and_have_no_descriptions(tmp_path, catalogue):
    write_catalogue(tmp_path / "c", 30, seed=4, served_at="http://127.0.0.1:8000/shop/")
    raw, whole = contents(tmp_path / "c"), contents(catalogue)
    train = json.loads(raw["item2meta_train.json"])
    one = next(iter(train))
    assert train[one]["images"] == [{"large": f"http://127.0.0.1:8000/shop/{one}_0.jpg"}]
    assert "image_descriptions_llava_cleaned" not in train[one]
    lines = [json.loads(line) for line in raw["item2meta_valid.jsonl"].splitlines()]
    assert {line["image_description_llava_cleaned"] for line in lines} == {""}
    # The same pictures as without.
    pictures = {Path(name).name: data for name, data in raw.items() if name.startswith("pictures/")}
    assert pictures == {Path(name).name: data for name, data in whole.items() if "_images/" in name}
    assert not [name for name in raw if "_images/" in name]


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host/x", "http://", "http://host/?a=1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="is not an address; write http"):
        ToyshopSettings.load(flags={"output_dir": "x", "served_at": address})
