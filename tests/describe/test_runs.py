"""Whole runs: what is described, what is refused, and what a run that was stopped comes to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bare_world import bare_world, flags, texts
from small_world import make_world, refused, skipped

from lavic.cli.main import run_command_line
from lavic.describe import run as describe_run
from lavic.describe.journal import Journal

FILES = ("item2meta_train.json", "item2meta_valid.jsonl")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    return bare_world(tmp_path_factory.mktemp("bare") / "w")


@pytest.fixture(scope="module")
def finished(bare, tmp_path_factory) -> Path:
    world = tmp_path_factory.mktemp("finished") / "w"
    shutil.copytree(bare, world)
    assert run_command_line(flags(world)) == 0
    return world


@pytest.fixture
def world(bare, tmp_path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "w"))


def metadata(world: Path) -> list[bytes]:
    return [(world / name).read_bytes() for name in FILES]


def listed(world: Path) -> list[dict[str, str]]:
    path = world / "describe_skipped.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_picture_gets_a_text_and_nothing_else_changes(bare, finished, tmp_path):
    assert len(texts(finished)) == 12
    whole = make_world(tmp_path / "whole", 12)
    rows = json.loads((whole / FILES[0]).read_text())
    found = texts(finished)
    for row in rows.values():
        key = "image_descriptions_llava_cleaned"
        row[key] = {name: found[name] for name in row[key]}
    assert json.dumps(rows) == (finished / FILES[0]).read_text()
    assert listed(finished) == []


def test_a_second_run_finds_nothing_to_do(finished, capsys):
    before = metadata(finished)
    times = [(finished / name).stat().st_mtime_ns for name in FILES]
    assert run_command_line([*flags(finished), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["described"] == 0
    assert "Loading" not in captured.err
    assert metadata(finished) == before
    assert [(finished / name).stat().st_mtime_ns for name in FILES] == times


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_dies_goes_on_to_the_same_files(world, finished, monkeypatch, after):
    inner, count = describe_run._describe_batch, 0

    def dying(*arguments):
        nonlocal count
        count += 1
        if count > after:
            raise RuntimeError("died")
        inner(*arguments)

    before = metadata(world)
    monkeypatch.setattr(describe_run, "_describe_batch", dying)
    assert run_command_line(flags(world, batch_size=3)) == 70
    assert metadata(world) == before, "nothing is merged before the end"
    monkeypatch.setattr(describe_run, "_describe_batch", inner)
    # Half a row, as a kill leaves it.
    with (world / f"{FILES[0]}.describe.jsonl").open("ab") as stream:
        stream.write(b'{"image_name": "B0')
    assert run_command_line(flags(world, batch_size=2)) == 0
    assert metadata(world) == metadata(finished)


def test_ctrl_c_keeps_what_was_described(world, finished, monkeypatch, capsys):
    inner = describe_run._describe_batch

    def pressing(*arguments):
        import os
        import signal

        inner(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(describe_run, "_describe_batch", pressing)
    assert run_command_line(flags(world)) == 130
    assert "4 descriptions are in the journal." in capsys.readouterr().err
    monkeypatch.setattr(describe_run, "_describe_batch", inner)
    assert run_command_line(flags(world)) == 0
    assert metadata(world) == metadata(finished)


def test_another_model_or_setting_does_not_go_on(world, capsys):
    assert run_command_line(flags(world, max_samples=3)) == 0
    sentence = refused(capsys, flags(world, max_new_tokens=47))
    assert sentence.startswith(
        f"{world / FILES[0]}.describe.jsonl: the journal holds 3 descriptions of another model or other settings: "
        "--max_new_tokens (was 48, is 47)."
    )
    assert "--overwrite" in sentence
    prompts = world / "prompts.yaml"
    prompts.write_text("describe: Say what you see.\n")
    assert "other settings: the prompt." in refused(capsys, flags(world, prompts=prompts))
    assert run_command_line(flags(world, max_new_tokens=47, overwrite=True)) == 0
    assert len(texts(world)) == 12


def test_a_whole_journal_of_another_setting_is_not_merged(world, finished, capsys, monkeypatch):
    def dying(*_):
        raise RuntimeError("died")

    # Killed when all was described and nothing merged.
    inner = describe_run._merge
    monkeypatch.setattr(describe_run, "_merge", dying)
    assert run_command_line(flags(world)) == 70
    monkeypatch.setattr(describe_run, "_merge", inner)
    before = metadata(world)
    assert "--max_new_tokens (was 48, is 47)" in refused(capsys, flags(world, max_new_tokens=47))
    assert metadata(world) == before
    assert run_command_line(flags(world)) == 0
    assert metadata(world) == metadata(finished)


def test_other_weights_under_the_same_name_do_not_go_on(world, capsys):
    assert run_command_line(flags(world, max_samples=3)) == 0
    path = world / f"{FILES[0]}.describe.jsonl"
    head, rest = path.read_text().split("\n", 1)
    row = json.loads(head)
    row["identity"]["content of --model"] = "0" * 64
    path.write_text(json.dumps(row) + "\n" + rest)
    assert "other settings: content of --model." in refused(capsys, flags(world))


def test_a_limit_that_leaves_no_sentence_is_told_and_another_one_asks_for_overwrite(world, capsys):
    assert run_command_line(flags(world, max_new_tokens=4, max_samples=2)) == 0
    assert texts(world) == {}
    assert {row["reason"] for row in listed(world)} == {"the token limit ended the text within its first sentence"}
    assert "--max_new_tokens (was 4, is 48)" in refused(capsys, flags(world, max_samples=2))
    assert run_command_line(flags(world, max_samples=2, overwrite=True)) == 0
    assert len(texts(world)) == 2


def test_a_damaged_row_of_the_journal_is_named(world, capsys):
    assert run_command_line(flags(world, max_samples=2)) == 0
    path = world / f"{FILES[0]}.describe.jsonl"
    head, first, rest = path.read_text().split("\n", 2)
    path.write_text("\n".join([head, first[:-9], rest]))
    sentence = refused(capsys, flags(world))
    assert sentence.startswith(f"{path}, line 2: the line is not a JSON object. Move it away, or start again with")
    path.write_text("\n".join([head, first.replace('"text": "', '"text": 1, "more": "'), rest]))
    assert "a row of the journal is damaged" in refused(capsys, flags(world))


def test_bad_pictures_are_listed_and_left_out(world):
    names = sorted(path.name for path in (world / "train_images").iterdir())
    (world / "train_images" / names[0]).write_bytes(b"<html>gone</html>")
    (world / "train_images" / names[1]).unlink()
    assert run_command_line(flags(world)) == 0
    assert len(texts(world)) == 10
    assert {(row["key"], row["reason"]) for row in listed(world)} == {
        (names[0], "the file is an HTML page, not an image"),
        (names[1], "there is no such picture"),
    }


def test_a_text_that_is_there_is_not_touched(world):
    rows = json.loads((world / FILES[0]).read_text())
    item_id = list(rows)[2]
    rows[item_id]["image_descriptions_llava_cleaned"] = {f"{item_id}_0.jpg": "Mine."}
    (world / FILES[0]).write_text(json.dumps(rows))
    assert run_command_line(flags(world)) == 0
    assert texts(world)[f"{item_id}_0.jpg"] == "Mine."


def test_a_foreign_file_in_the_journals_place_is_refused(world, capsys):
    (world / f"{FILES[0]}.describe.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    assert "this is no journal of lavic describe" in refused(capsys, flags(world))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"top_p": 0.5}, "--top_p: it needs a temperature above 0. With 0 the likeliest token is taken."),
        ({"train_only": True, "valid_only": True}, "--train_only and --valid_only: they exclude each other."),
        ({"sample": 20}, "--sample: it says nothing without --adapter."),
        ({"logits_dir": "x"}, "--logits_dir: it says nothing without --top_logits."),
        ({"temperature": -1}, "--temperature: -1 is too small; it must be at least 0."),
        ({"max_new_tokens": 0}, "--max_new_tokens: 0 is too small; it must be at least 1."),
        ({"model": "./nowhere"}, "./nowhere: "),
        ({"train_data": "nowhere.json"}, "nowhere.json: the file does not exist. Give --train_data."),
        ({"train_images_dir": "."}, ".: none of the 10 pictures that item2meta_train.json names is there. Give"),
        ({"val_images_dir": "nowhere"}, "nowhere: the folder with the pictures does not exist. Give --val_images_dir"),
    ],
)
def test_wrong_flags_are_one_sentence(world, capsys, more, sentence):
    assert refused(capsys, flags(world, **more)).startswith(sentence)


def test_a_file_that_is_cut_off_is_told_before_the_model_is_loaded(world, capsys):
    path = world / FILES[0]
    path.write_bytes(path.read_bytes()[:-40])
    capsys.readouterr()
    assert run_command_line(flags(world)) == 2
    error = capsys.readouterr().err
    assert "the file ends inside item" in error
    assert "Loading" not in error


def test_a_journal_knows_its_rows(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    assert (journal.identity, journal.described) == ({}, {})
    assert skipped(tmp_path) == []
