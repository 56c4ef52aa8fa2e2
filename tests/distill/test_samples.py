"""Which rows become samples, in which order, and what is said of the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from transformers import LlamaTokenizer

from lavic.distill.samples import collect_samples, costs, require_samples
from lavic.errors import InputError, NothingLeftError
from lavic.formats import ItemImage, SkipLog, read_train_metadata, read_valid_metadata
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tokenizer import train_tokenizer
from lavic.training.loaders import Sample


@pytest.fixture(scope="module")
def tokenizer() -> LlamaTokenizer:
    return train_tokenizer()


@pytest.fixture(scope="module")
def builder(tokenizer: LlamaTokenizer) -> SequenceBuilder:
    return SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5)


def pictures(folder: Path, *names: str) -> Path:
    """Files that are there; whether they are pictures is not asked yet."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"bytes")
    return folder


def image(name: str, description: str = "A mug.") -> ItemImage:
    return ItemImage(name.partition("_")[0], name, "A title", description, f"train.json, item {name}")


def collected(
    images: list[ItemImage], folder: Path, builder: SequenceBuilder, **limits: int
) -> tuple[list[Sample], list[dict[str, str]]]:
    """The samples, and what was left out."""
    limits.setdefault("max_length", 2048)
    skipped = SkipLog(folder.parent / "skipped.jsonl")
    samples = collect_samples(images, folder, builder, skipped, **limits)
    lines = skipped.path.read_text().splitlines() if skipped.path.exists() else []
    return samples, [json.loads(line) for line in lines]


def test_samples_stand_in_file_order_with_their_place(tmp_path: Path, builder: SequenceBuilder):
    folder = pictures(tmp_path / "images", "B_0.jpg", "A_0.jpg", "A_1.jpg")
    samples, left_out = collected([image("B_0.jpg"), image("A_1.jpg"), image("A_0.jpg")], folder, builder)
    assert [sample.name for sample in samples] == ["B_0.jpg", "A_1.jpg", "A_0.jpg"]
    assert samples[1].path == folder / "A_1.jpg"
    assert samples[1].where == "train.json, item A_1.jpg"
    assert samples[1].sequence == builder.distill("A title", "A mug.")
    assert left_out == []


def test_max_samples_counts_behind_the_missing_pictures_and_stops_looking(tmp_path: Path, builder: SequenceBuilder):
    folder = pictures(tmp_path / "images", "B_0.jpg", "D_0.jpg", "F_0.jpg")
    images = [image(f"{letter}_0.jpg") for letter in "ABCDEF"]
    samples, left_out = collected(images, folder, builder, max_samples=2)
    assert [sample.name for sample in samples] == ["B_0.jpg", "D_0.jpg"]
    # E is behind the second sample: not looked for, so not listed.
    assert [row["key"] for row in left_out] == ["A_0.jpg", "C_0.jpg"]


def test_max_samples_counts_a_picture_whose_description_is_too_long(tmp_path: Path, builder: SequenceBuilder):
    # The first N whose picture is there; which they are does not depend on --max_length.
    folder = pictures(tmp_path / "images", "A_0.jpg", "B_0.jpg", "C_0.jpg")
    images = [image("A_0.jpg", "A mug. " * 9), image("B_0.jpg"), image("C_0.jpg")]
    length = len(builder.distill("A title", "A mug.").input_ids)
    samples, left_out = collected(images, folder, builder, max_samples=2, max_length=length)
    assert [sample.name for sample in samples] == ["B_0.jpg"]
    assert [row["key"] for row in left_out] == ["A_0.jpg"]


def test_a_sample_of_just_max_length_is_kept_and_one_token_more_is_not(tmp_path: Path, builder: SequenceBuilder):
    folder = pictures(tmp_path / "images", "A_0.jpg", "B_0.jpg")
    images = [image("A_0.jpg", "A mug."), image("B_0.jpg", "A mug. A mug.")]
    lengths = [len(builder.distill("A title", each.description).input_ids) for each in images]
    assert lengths[0] < lengths[1]
    assert len(collected(images, folder, builder, max_length=lengths[1])[0]) == 2
    samples, left_out = collected(images, folder, builder, max_length=lengths[1] - 1)
    assert [sample.name for sample in samples] == ["A_0.jpg"]
    assert left_out == [
        {
            "file": str(folder / "B_0.jpg"),
            "where": "train.json, item B_0.jpg",
            "key": "B_0.jpg",
            "reason": f"{lengths[1]} tokens, more than --max-length {lengths[1] - 1}",
        }
    ]


def test_texts_too_long_by_different_numbers_of_tokens_are_one_reason(tmp_path: Path, builder: SequenceBuilder):
    names = [f"{letter}_0.jpg" for letter in "ABC"]
    folder = pictures(tmp_path / "images", *names)
    images = [image(name, "red " * (50 + number)) for number, name in enumerate(names)]
    images += [image("D_0.jpg"), image("E_0.jpg")]
    skipped = SkipLog(tmp_path / "skipped.jsonl")
    samples = collect_samples(images, folder, builder, skipped, max_length=30)
    told = {"… tokens, more than --max-length 30": 3, "there is no such picture": 2}
    assert dict(skipped.by_reason) == told
    with pytest.raises(NothingLeftError, match="most frequent reason, 3 times: … tokens, more than --max-length 30"):
        require_samples(samples, tmp_path / "train.json", folder, skipped)
    again = SkipLog(tmp_path / "skipped.jsonl", resume=True)
    assert dict(again.by_reason) == told


def test_the_tokens_named_are_prompt_and_description_with_bos_and_eos(
    tmp_path: Path, builder: SequenceBuilder, tokenizer: LlamaTokenizer
):
    folder = pictures(tmp_path / "images", "A_0.jpg")
    _, (row,) = collected([image("A_0.jpg", "red " * 90)], folder, builder, max_length=100)
    before, after = DEFAULT_PROMPTS.distill.replace("{title}", "A title").split("{visual_tokens}")
    # Counted piece by piece; joining can only move the two borders beside the placeholders.
    pieces = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in (before, after + "red " * 90)]
    assert int(row["reason"].split()[0]) == pytest.approx(sum(pieces) + 5 + 2, abs=2)


def test_each_picture_that_cannot_be_used_has_its_reason(tmp_path: Path, builder: SequenceBuilder):
    folder = pictures(tmp_path / "images", "ok_0.jpg", "elsewhere.jpg")
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder / "inside.jpg").symlink_to("elsewhere.jpg")
    expected = {
        "missing.jpg": "there is no such picture",
        "zero.jpg": "the file is empty (0 bytes)",
        "folder.jpg": "is a folder",
        "pipe.jpg": "is not an ordinary file",
        "dangling.jpg": "the link leads nowhere",
        "out.jpg": "the name is a link that leads out of its folder",
        "../outside.jpg": "the name holds a path separator",
        str(tmp_path / "outside.jpg"): "the name holds a path separator",
        "..": "the name starts with a dot",
        "x" * 300: "the name is longer than 230 bytes",
    }
    images = [image(name) for name in ("ok_0.jpg", *expected, "inside.jpg")]
    samples, left_out = collected(images, folder, builder)
    assert [sample.name for sample in samples] == ["ok_0.jpg", "inside.jpg"]
    assert {row["key"]: row["reason"] for row in left_out} == {name[:300]: text for name, text in expected.items()}


def test_no_title_is_a_title_and_no_description_is_no_sample(tmp_path: Path, builder: SequenceBuilder):
    path = tmp_path / "train.json"
    key = "image_descriptions_llava_cleaned"
    rows = {
        "A": {"title": None, key: {"A_0.jpg": "A mug."}},
        "B": {key: {"B_0.jpg": "A lamp."}},
        "C": {"title": "  ", key: {"C_0.jpg": ""}},
        "D": {"title": "D", key: {"D_0.jpg": None, "D_1.jpg": "  \n", "D_2.jpg": "A vase."}},
    }
    path.write_text(json.dumps(rows))
    folder = pictures(tmp_path / "images", "A_0.jpg", "B_0.jpg", "C_0.jpg", "D_0.jpg", "D_1.jpg", "D_2.jpg")
    skipped = SkipLog()
    samples = collect_samples(read_train_metadata(path, skipped), folder, builder, skipped, max_length=2048)
    assert [sample.name for sample in samples] == ["A_0.jpg", "B_0.jpg", "D_2.jpg"]
    assert samples[0].sequence == builder.distill("No Title", "A mug.")
    assert skipped.notes["titles missing, taken as 'No Title'"] == 3
    assert skipped.by_reason == {"the text is empty": 2, "the text is null": 1}


def test_a_validation_row_needs_no_title_either(tmp_path: Path, builder: SequenceBuilder):
    path = tmp_path / "valid.jsonl"
    row = {"image_name": "A_0.jpg", "image_description_llava_cleaned": "A mug."}
    path.write_text("".join(json.dumps({**row, **more}) + "\n" for more in ({}, {"title": ""}, {"title": "T"})))
    skipped = SkipLog()
    folder = pictures(tmp_path / "images", "A_0.jpg")
    samples = collect_samples(read_valid_metadata(path, skipped), folder, builder, skipped, max_length=2048)
    assert [sample.where for sample in samples] == [f"{path}, line {line}" for line in (1, 2, 3)]
    assert samples[0].sequence == samples[1].sequence == builder.distill("No Title", "A mug.")
    assert skipped.summary() == {"skipped": 0, "reasons": {}, "notes": {"titles missing, taken as 'No Title'": 2}}


def test_nothing_left_names_the_most_frequent_reason(tmp_path: Path):
    skipped = SkipLog(tmp_path / "skipped.jsonl")
    for place in range(3):
        skipped.add(file="x.json", where=f"item {place}", reason="there is no such picture")
    skipped.add(file="x.json", where="item 3", reason="the text is empty")
    (tmp_path / "images").mkdir()
    with pytest.raises(NothingLeftError) as caught:
        require_samples([], Path("x.json"), tmp_path / "images", skipped)
    assert caught.value.sentence == (
        "x.json: no sample is left; most frequent reason, 3 times: there is no such picture. "
        f"{tmp_path / 'skipped.jsonl'} lists them all."
    )


def test_nothing_left_because_the_folder_is_not_there_names_the_folder(tmp_path: Path):
    with pytest.raises(InputError, match="images: the folder with the pictures does not exist"):
        require_samples([], Path("x.json"), tmp_path / "images", SkipLog())


def test_a_sample_costs_the_tokens_that_gradients_go_through(builder):
    sequences = [builder.distill("A long title " * 9, "Red."), builder.distill("Mug", "A red mug with a white handle.")]
    samples = [Sample("a_0.jpg", Path("a_0.jpg"), sequence) for sequence in sequences]
    whole, behind = [len(sequence.input_ids) for sequence in sequences], costs(samples)
    assert behind == [length - sequence.placeholders[0] for length, sequence in zip(whole, sequences, strict=True)]
    assert whole[0] > whole[1]
    assert behind[0] < behind[1]
