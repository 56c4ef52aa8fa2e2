"""The page that lays five-token descriptions beside the teacher's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bare_world import bare_world, flags
from PIL import Image
from small_world import make_world, refused

from lavic.cli.main import run_command_line
from lavic.describe.page import Compared, comparison_page, word_overlap
from lavic.formats import ItemImage
from lavic.model.adapters import LoraSettings, attach_vision_lora, save_adapter
from lavic.model.load import load_base


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    base = load_base("tiny")
    lora = LoraSettings(2, 4, 0.0)
    folder = tmp_path_factory.mktemp("adapter") / "vision"
    save_adapter(attach_vision_lora(base.model, lora, seed=0), folder, base_name="tiny", card="")
    return folder


def test_a_page_holds_pictures_and_both_texts(adapter, tmp_path):
    world = make_world(tmp_path / "w", 20)
    page = tmp_path / "out" / "page.html"
    command = flags(world, adapter=adapter, sample=3, page=page)
    assert run_command_line(command) == 0
    text = page.read_text()
    assert text.count("<article>") == 3
    assert text.count("data:image/jpeg;base64,") == 3
    assert "http" not in re.sub(r"base64,[^\"]*", "", text), "it loads nothing"
    assert run_command_line(command) == 0
    assert page.read_text() == text, "the same lot"
    assert not (world / "item2meta_valid.jsonl.describe.jsonl").exists()


def test_text_from_data_is_escaped_and_new_words_are_marked():
    image = ItemImage("B1", "B1_0.jpg", "<script>", "A red & blue mug.")
    row = Compared(image, Image.new("RGB", (9, 9)), "A red <b> tea cup.")
    html = comparison_page([row], model="<i>m", adapter='"><i>', data="<i>d", views=5)
    assert "<script>" not in html
    assert "<i>" not in html
    assert '<p>A red &amp; <mark class="lost">blue mug</mark>.</p>' in html
    assert '<p>A red &lt;<mark class="new">b</mark>&gt; <mark class="new">tea cup</mark>.</p>' in html


def test_shared_words_are_a_share_of_the_teachers():
    assert word_overlap("A red mug, a RED one", "red cup") == pytest.approx(1 / 4)


def test_a_world_without_descriptions_has_no_page(adapter, tmp_path, capsys):
    world = bare_world(tmp_path / "w", 12)
    assert "no described picture can be read" in refused(capsys, flags(world, adapter=adapter))


def test_a_folder_in_the_pages_place_is_told_at_once(adapter, tmp_path, capsys):
    world = make_world(tmp_path / "w", 12)
    sentence = refused(capsys, flags(world, adapter=adapter, page=tmp_path))
    assert sentence == f"--page {tmp_path}: this is a folder. Name a file in it."


@pytest.mark.parametrize("name", ["item2meta_train.json", "item2meta_valid.jsonl", "link.html", "notes.html"])
def test_only_an_earlier_page_is_replaced(adapter, tmp_path, capsys, name):
    world = make_world(tmp_path / "w", 12)
    (world / "notes.html").write_text("<html><head><title>Notes</title></head></html>")
    (world / "link.html").symlink_to(world / "item2meta_valid.jsonl")
    before = (world / name).read_bytes()
    why = "no page of `lavic describe`, so it is not replaced" if name == "notes.html" else "a file that is read"
    sentence = refused(capsys, flags(world, adapter=adapter, page=world / name))
    is_file = "the file is" if name == "notes.html" else "this is"
    assert sentence == f"--page {world / name}: {is_file} {why}. Name another file."
    assert (world / name).read_bytes() == before


def test_a_folder_without_an_adapter_is_told(tmp_path, capsys):
    world = make_world(tmp_path / "w", 12)
    assert str(tmp_path / "none") in refused(capsys, flags(world, adapter=tmp_path / "none"))
