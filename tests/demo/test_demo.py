"""The demo, small: every row is measured on the same pictures, and blind really is blind."""

from __future__ import annotations

import json
import math

import pytest

from lavic.console import Console
from lavic.demo.config import FULL, DemoSettings
from lavic.demo.measure import accuracy_of, right_attributes
from lavic.demo.report import marked
from lavic.demo.run import run
from lavic.errors import ConfigError, OutputError
from lavic.files import FolderLock
from lavic.formats import SkipLog, read_train_metadata
from lavic.toyshop.catalogue import ToyItem
from lavic.toyshop.kinds import Look

ITEM = ToyItem("B0", "A title", "", Look("mug", "red", "striped", "a lid", "a wooden table"), "seed")


def test_attributes_are_counted_one_by_one_and_together():
    texts = [
        "This is a red striped mug. It has a lid.",
        "This is a blue mug with stripes. It has a lid.",
        "This is a red striped vase.",
        "",
    ]
    assert right_attributes(ITEM, texts[1]) == {"colour": False, "pattern": True, "kind": True, "detail": True}
    accuracy = accuracy_of([ITEM] * 4, texts)
    assert accuracy == {"colour": 0.5, "pattern": 0.75, "kind": 0.5, "detail": 0.5, "all": 0.25}


def test_marked_words_are_escaped_and_coloured():
    html = marked(ITEM, "A red <b> dotted mug. It has a lid.")
    assert '<span class="right">red</span>' in html
    assert '<span class="wrong">dotted</span>' in html
    assert "&lt;b&gt;" in html


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    settings = DemoSettings(output_dir=folder / "demo", items=30, steps=3, tune_steps=0, seed=5, workers=0)
    outcome = run(settings, Console())
    return folder / "demo", outcome


@pytest.mark.parametrize("name", ["logs/training_20260101_000000.log", "item_store/tokens.safetensors", "tuned"])
def test_what_no_demo_made_is_not_deleted(tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(OutputError, match="holds data that this command did not make, so it is not replaced"):
        run(DemoSettings(output_dir=tmp_path, items=30, steps=1, tune_steps=0, workers=0), Console())
    assert mine.read_text() == "mine"


def test_two_demos_do_not_write_to_one_folder(tmp_path):
    with FolderLock(tmp_path), pytest.raises(OutputError, match="is writing here"):
        run(DemoSettings(output_dir=tmp_path, items=30, steps=1, tune_steps=0, workers=0), Console())


def test_the_full_demo_is_larger_unless_told_otherwise():
    full = DemoSettings(full=True, steps=1200)
    assert (full.items, full.steps) == (FULL["items"], 1200)
    usual = DemoSettings(items=50)
    assert (usual.items, usual.steps) == (50, 160)


def test_too_few_items_to_recommend_from_are_refused_before_anything_is_deleted(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        run(DemoSettings(output_dir=tmp_path, items=30), Console())
    assert caught.value.sentence.startswith("--items: among 30 items no kind has 10 look-alikes")
    assert caught.value.sentence.endswith(" or more, or --tune_steps 0, which leaves recommending out.")
    assert (tmp_path / "summary.json").exists()


def test_the_summary_holds_every_row(small_demo):
    folder, outcome = small_demo
    summary = json.loads((folder / "summary.json").read_text())
    assert outcome.exit_code == 0
    assert set(summary["val_loss"]) == set(summary["attribute_accuracy"]) == {"teacher", "blind", "before", "after"}
    assert all(math.isfinite(loss) and loss > 0 for loss in summary["val_loss"].values())
    for row in summary["attribute_accuracy"].values():
        assert set(row) == {"colour", "pattern", "kind", "detail", "all"}
        assert all(0 <= share <= 1 for share in row.values())
    loss = summary["val_loss"]
    gap = (loss["before"] - loss["after"]) / (loss["before"] - loss["teacher"])
    assert summary["gap_closed"] == pytest.approx(gap)
    assert summary["seconds"] > 0


def test_the_blind_run_saw_every_picture_with_another_ones_words(small_demo):
    folder, _ = small_demo
    true = list(read_train_metadata(folder / "toyshop" / "item2meta_train.json", SkipLog()))
    blind = list(read_train_metadata(folder / "toyshop" / "item2meta_train_blind.json", SkipLog()))
    assert [row.title for row in blind] == [row.title for row in true]
    assert [row.description for row in blind] == [row.description for row in true]
    assert sorted(row.image_name for row in blind) == sorted(row.image_name for row in true)
    assert all(one.image_name != other.image_name for one, other in zip(true, blind, strict=True))


def test_the_sheet_is_one_page_without_scripts_or_addresses(small_demo):
    folder, _ = small_demo
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<img ") == 6
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
