"""The teacher's probabilities: right numbers at the student's tokens, whole shards, refused mismatches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bare_world import bare_world, flags, texts
from small_world import make_world, refused

from lavic.cli.main import run_command_line
from lavic.describe import store_run
from lavic.describe.top_logits import TopLogits, bytes_per_token, id_type
from lavic.errors import InputError
from lavic.formats import read_train_metadata
from lavic.images import read_image
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import load_base
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.skipped import SkipLog

K = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("logits") / "w", 12)
    assert run_command_line(flags(folder, top_logits=K, shard_size=4)) == 0
    return folder


def folder_of(world: Path) -> Path:
    return world / "item2meta_train.top_logits"


@torch.no_grad()
def test_the_numbers_are_those_of_the_full_distribution(world):
    store, base = TopLogits(folder_of(world)), load_base("tiny")
    builder = SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
    teacher = FullTokenModel(base)
    images = list(read_train_metadata(world / "item2meta_train.json", SkipLog()))
    assert set(store) == {image.image_name for image in images}
    for image in images[:3]:
        sequence = builder.distill(image.title, image.description)
        targets = sequence.input_ids[sequence.prompt_length :]
        found = store.get(image.image_name, targets)
        assert found.targets.tolist() == list(targets)
        assert found.targets[-1] == base.tokenizer.eos_token_id
        # Plainly: all logits of the one sequence, all probabilities in float64.
        picture = read_image(world / "train_images" / image.image_name)
        full = teacher.embed([sequence], teacher.image_tokens([picture]), builder.pad_id)
        logits = base.model.lm_head(teacher.hidden_states(full))[0, -len(targets) - 1 : -1].double()
        wanted = logits.softmax(-1)
        top = wanted.topk(K, -1)
        assert np.array_equal(found.ids[:, 0], top.indices[:, 0].numpy())
        # float16 has 11 bits: a log-probability of 10 is off by 0.004 at most.
        np.testing.assert_allclose(found.log_probs, top.values.log().numpy(), rtol=1e-3, atol=1e-3)
        rest = 1 - top.values.sum(-1)
        np.testing.assert_allclose(np.exp(found.rest), rest.numpy(), rtol=1e-3, atol=1e-6)
        # The text is the teacher's kind of text, so its own tokens are likely.
        assert float(np.exp(found.log_probs[:, 0].astype(np.float64)).mean()) > 0.5


def test_the_files_take_what_is_promised(world):
    store = TopLogits(folder_of(world))
    index = json.loads((folder_of(world) / "00000.json").read_text())
    tokens = sum(image["tokens"] for image in index["images"])
    assert bytes_per_token(K, 2048) == 4 + 2 * K + 2 * (K + 1) == 26
    size = (folder_of(world) / "00000.bin").stat().st_size
    assert tokens * 26 <= size <= tokens * 26 + 3 * 64
    name = next(iter(store))
    assert isinstance(store.get(name).ids.base, np.memmap) or isinstance(store.get(name).ids, np.memmap)
    assert store.get(name).ids.dtype == np.uint16


@pytest.mark.parametrize(("vocabulary", "kind"), [(65_536, "uint16"), (65_537, "uint32")])
def test_ids_are_as_wide_as_the_vocabulary_needs(vocabulary, kind):
    assert id_type(vocabulary) == kind
    assert np.iinfo(kind).max >= vocabulary - 1


def test_other_target_tokens_are_refused(world):
    store = TopLogits(folder_of(world))
    name = next(iter(store))
    targets = store.get(name).targets.tolist()
    with pytest.raises(InputError, match="belong to other target tokens"):
        store.get(name, [targets[0] + 1, *targets[1:]])
    with pytest.raises(InputError, match="no probabilities for B9"):
        store.get("B9")


def test_only_what_is_missing_or_changed_is_made_again(tmp_path, monkeypatch):
    world = make_world(tmp_path / "w", 12)
    command = flags(world, top_logits=K, shard_size=4)
    assert run_command_line(command) == 0
    folder = folder_of(world)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".bin", ".json")}
    (folder / "00001.json").unlink()  # as a kill between numbers and index leaves it
    with pytest.raises(InputError, match="shard 00001 is not whole"):
        TopLogits(folder)
    made = []
    inner = store_run.write_shard
    monkeypatch.setattr(store_run, "write_shard", lambda *a: made.append(a[1]) or inner(*a))
    assert run_command_line(command) == 0
    assert made == [1]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".bin", ".json")} == before
    rows = json.loads((world / "item2meta_train.json").read_text())
    last = list(rows)[-1]
    rows[last]["image_descriptions_llava_cleaned"][f"{last}_0.jpg"] = "Something else."
    (world / "item2meta_train.json").write_text(json.dumps(rows))
    assert run_command_line(command) == 0
    assert made == [1, 2]


def test_shards_of_which_nobody_knows_whose_they_are_are_made_again(tmp_path):
    world = make_world(tmp_path / "w", 12)
    assert run_command_line(flags(world, top_logits=K)) == 0
    (folder_of(world) / "store.json").unlink()
    assert run_command_line(flags(world, top_logits=2)) == 0
    store = TopLogits(folder_of(world))
    assert {store.get(name).ids.shape[1] for name in store} == {2}


def test_fewer_descriptions_leave_no_shard_over(tmp_path):
    world = make_world(tmp_path / "w", 12)
    assert run_command_line(flags(world, top_logits=2, shard_size=4)) == 0
    rows = json.loads((world / "item2meta_train.json").read_text())
    kept = dict(list(rows.items())[:4])
    (world / "item2meta_train.json").write_text(json.dumps(kept))
    assert run_command_line([*flags(world, top_logits=2, shard_size=4), "--json"]) == 0
    assert {name.split("_")[0] for name in TopLogits(folder_of(world))} == set(kept)
    assert sorted(path.name for path in folder_of(world).glob("0*")) == ["00000.bin", "00000.json"]


def test_a_broken_picture_is_left_out_of_its_shard(tmp_path):
    world = make_world(tmp_path / "w", 12)
    names = sorted(path.name for path in (world / "train_images").iterdir())
    (world / "train_images" / names[0]).write_bytes(b"no picture")
    assert run_command_line(flags(world, top_logits=K, shard_size=1)) == 0
    assert set(TopLogits(folder_of(world))) == set(names[1:])
    assert names[0] in (world / "describe_skipped.jsonl").read_text()


def test_another_model_or_k_is_refused_before_anything_is_described(world, tmp_path, capsys):
    bare = bare_world(tmp_path / "w", 12)
    folder_of(bare).mkdir()
    shutil.copy(folder_of(world) / "store.json", folder_of(bare))
    sentence = refused(capsys, flags(bare, top_logits=K + 1, shard_size=4))
    assert texts(bare) == {}
    assert not list(bare.glob("*.describe.jsonl"))
    assert sentence == (
        f"{folder_of(bare)}: the folder holds probabilities of another model or other settings: --top_logits "
        "(was 5, is 6). Use the same ones, another --logits_dir, or --overwrite."
    )


def test_new_descriptions_are_stored_in_the_same_run(tmp_path):
    world = bare_world(tmp_path / "w", 12)
    assert run_command_line(flags(world, top_logits=2)) == 0
    assert len(TopLogits(folder_of(world))) == 10
