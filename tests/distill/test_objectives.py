"""``--objective``: runs that learn the teacher's probabilities, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bare_world import flags as describe_flags
from small_world import flags, make_world, refused, skipped, train_rows, write_train_rows

from lavic.cli.main import run_command_line
from lavic.describe import top_logits
from lavic.describe.top_logits import TopLogits, no_tokens, shard_index, write_shard
from lavic.distill.config import DistillSettings
from lavic.distill.task import ADAPTER_FOLDER, DistillTask
from lavic.distill.teacher import TeacherStore, teacher_folder
from lavic.files import sha256_file
from lavic.formats import DESCRIPTIONS_KEY
from lavic.prompts import DEFAULT_PROMPTS
from lavic.training.checkpoints import CHECKPOINT_FILE
from lavic.training.run_log import EVENTS_FILE, TIMING_FIELDS

K = 4
STORE = "item2meta_train.top_logits"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training pictures in 3 shards; not to be changed."""
    folder = make_world(tmp_path_factory.mktemp("stored") / "w", 15)
    assert run_command_line(describe_flags(folder, top_logits=K, shard_size=4)) == 0
    return folder


@pytest.fixture
def world(stored: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(stored, tmp_path / "world"))


def rows(output: Path, kind: str = "step") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (output / EVENTS_FILE).read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def untimed(output: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (output / EVENTS_FILE).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in {*TIMING_FIELDS, "settings"}} for row in found]


def told(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a run that ends well says beside its result."""
    capsys.readouterr()
    assert run_command_line(command) == 0
    return capsys.readouterr().err


# -- what is learnt ------------------------------------------------------------------------------------------


def test_the_log_splits_the_loss_and_validation_is_the_nll(stored: Path, tmp_path: Path) -> None:
    made = {"nll": {}, "kl": {}, "nll+kl": {"kl_weight": 0.5}}
    steps, validations = {}, {}
    for objective, more in made.items():
        output = tmp_path / objective / "out"
        words = flags(stored, output, objective=objective, validate_before_training=True, max_steps=3, **more)
        assert run_command_line(words) == 0
        steps[objective], validations[objective] = rows(output), rows(output, "validation")
    assert not {"train_nll", "train_kl"} & set(steps["nll"][0])
    for row in steps["kl"]:
        assert row["train_loss"] == pytest.approx(row["train_kl"], rel=1e-6)
    for row in steps["nll+kl"]:
        assert row["train_loss"] == pytest.approx(row["train_nll"] + 0.5 * row["train_kl"], rel=1e-6)
        assert row["train_kl"] > 0
    # The first step sees the same weights and the same dropout, whatever is minimised.
    first = steps["nll"][0]["train_loss"]
    assert [steps[name][0]["train_nll"] for name in ("kl", "nll+kl")] == pytest.approx([first, first], rel=1e-6)
    # Before the first step all are one model, so their validations are one; afterwards they are not.
    assert len({each[0]["val_loss"] for each in validations.values()}) == 1
    assert len({each[-1]["val_loss"] for each in validations.values()}) == 3


def test_the_temperature_changes_what_is_learnt(stored: Path, tmp_path: Path) -> None:
    found = []
    for temperature in (1, 3):
        output = tmp_path / str(temperature) / "out"
        assert run_command_line(flags(stored, output, objective="kl", temperature=temperature, max_steps=1)) == 0
        found.append(rows(output)[0]["train_kl"])
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_a_step_does_not_depend_on_how_it_is_cut(stored: Path, tmp_path: Path) -> None:
    found = []
    for batch_size, accumulation in ((7, 1), (2, 4)):
        more = {"batch_size": batch_size, "gradient_accumulation": accumulation, "max_samples": 7, "lora_dropout": 0}
        output = tmp_path / str(batch_size) / "out"
        words = flags(stored, output, objective="nll+kl", group_by_length=True, max_steps=1, **more)
        assert run_command_line([*words, "--val_every", "1"]) == 0
        found.append((rows(output)[0], rows(output, "validation")[0]["val_loss"]))
    for name in ("train_loss", "train_nll", "train_kl", "gradient_norm"):
        assert found[0][0][name] == pytest.approx(found[1][0][name], rel=1e-4), name
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


def test_a_broken_picture_takes_its_probabilities_with_it(world: Path, tmp_path: Path) -> None:
    names = [f"{item_id}_0.jpg" for item_id in list(train_rows(world))[:3]]
    for name in names[1:]:
        (world / "train_images" / name).write_bytes(b"broken")
    assert run_command_line(flags(world, tmp_path / "out", objective="kl", num_workers=1)) == 0
    assert sorted(row["key"] for row in skipped(tmp_path / "out")) == sorted(names[1:])
    assert sum(row["samples"] for row in rows(tmp_path / "out")) == 10


def test_a_dry_run_measures_it_too(stored: Path, tmp_path: Path) -> None:
    assert run_command_line(flags(stored, tmp_path / "out", objective="nll+kl", dry_run=2)) == 0
    assert not (tmp_path / "out").exists()


# -- going on ------------------------------------------------------------------------------------------------


class StruckError(RuntimeError):
    """Stands for the end of the process."""


def stopped(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until two steps are logged; the checkpoint of the first is there."""
    original = DistillTask.step_done

    def struck(self: DistillTask, report: Any) -> None:
        original(self, report)
        if report.step == 2:
            raise StruckError

    with monkeypatch.context() as patched:
        patched.setattr(DistillTask, "step_done", struck)
        assert run_command_line(arguments) == 70


FEW = {"objective": "nll+kl", "checkpoint_every": "1"}


def test_a_resumed_run_ends_with_the_same_bytes(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, output = tmp_path / "whole" / "out", tmp_path / "out"
    assert run_command_line(flags(world, whole, **FEW)) == 0
    stopped(flags(world, output, **FEW), monkeypatch)
    # The store may lie elsewhere by now: what counts is what is in it.
    moved = (world / STORE).rename(tmp_path / "elsewhere")
    assert run_command_line(flags(world, output, **FEW, logits_dir=moved, resume=True)) == 0
    assert untimed(output) == untimed(whole)
    assert sha256_file(output / CHECKPOINT_FILE) == sha256_file(whole / CHECKPOINT_FILE)


def test_another_objective_or_teacher_is_not_gone_on_with(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    stopped(flags(world, output, **FEW), monkeypatch)
    others = {
        "--objective (was nll+kl, is kl)": {"objective": "kl"},
        "--objective (was nll+kl, is nll)": {"objective": "nll"},
        "--kl_weight (was 1.0, is 2.0)": {"kl_weight": 2},
        "--temperature (was 1.0, is 2.0)": {"temperature": 2},
    }
    for named, more in others.items():
        assert named in refused(capsys, flags(world, output, **{**FEW, **more}, resume=True))
    assert run_command_line(describe_flags(world, top_logits=K + 1, shard_size=4, overwrite=True)) == 0
    sentence = refused(capsys, flags(world, output, **FEW, resume=True))
    assert "holds a run with other settings or data: content of --logits_dir." in sentence


def test_validating_with_the_saved_configuration_needs_no_teacher(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(flags(world, tmp_path / "out", objective="kl", temperature=2, max_steps=1)) == 0
    shutil.rmtree(world / STORE)
    capsys.readouterr()
    words = ["distill", "--config", str(tmp_path / "out" / "config.yaml"), "--validate_only", "--json"]
    assert run_command_line([*words, "--adapter", str(tmp_path / "out" / ADAPTER_FOLDER)]) == 0
    found = json.loads(capsys.readouterr().out)["val_loss_with_eos"]
    assert found == rows(tmp_path / "out", "validation")[-1]["val_loss_with_eos"]


# -- what is refused, and what is left out -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"kl_weight": 0.5},
            "--kl_weight: it does nothing with --objective nll. Give --objective nll+kl too, or leave it away.",
        ),
        (
            {"objective": "kl", "kl_weight": 0.5},
            "--kl_weight: it does nothing with --objective kl. Give --objective nll+kl too, or leave it away.",
        ),
        (
            {"temperature": 2},
            "--temperature: it does nothing with --objective nll. Give --objective nll+kl or kl too, or leave it away.",
        ),
        (
            {"logits_dir": "x"},
            "--logits_dir: it does nothing with --objective nll. Give --objective nll+kl or kl too, or leave it away.",
        ),
        ({"objective": "kl", "temperature": 0}, "--temperature: 0 is too small; it must be more than 0."),
        ({"objective": "nll+kl", "kl_weight": 0}, "--kl_weight: 0 is too small; it must be more than 0."),
        ({"objective": "mse"}, "--objective: 'mse' is not one of nll, kl or nll+kl."),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], sentence: str
) -> None:
    assert refused(capsys, flags(stored, tmp_path / "out", **more)) == sentence
    assert not (tmp_path / "out").exists()


def test_a_store_that_is_not_there_is_told_of_before_anything_is_loaded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(world / STORE)
    assert refused(capsys, flags(world, tmp_path / "out", objective="kl")) == (
        f"{world / STORE}: there are no probabilities of the teacher. Make them with lavic describe --top_logits 32, "
        "give --logits_dir, or train with --objective nll."
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["item2meta_train.json", "item2meta_train.json.zip", "item2meta_train.json.gz"])
def test_the_store_lies_where_describe_puts_it(name: str) -> None:
    settings = DistillSettings(train_data=Path("data") / name, objective="kl")
    assert teacher_folder(settings) == Path("data") / STORE


def test_a_store_that_is_not_whole_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / STORE / "00001.json").unlink()
    assert refused(capsys, flags(world, tmp_path / "out", objective="kl")) == (
        f"{world / STORE}: shard 00001 is not whole. Run lavic describe with --top_logits again; it makes what is "
        "missing."
    )


@pytest.mark.parametrize("change", [{"images": None}, {"images": [{}]}, {"images": [7]}])
def test_a_damaged_index_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    path = world / STORE / "00001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    sentence = refused(capsys, flags(world, tmp_path / "out", objective="kl"))
    assert sentence.startswith(f"{world / STORE}: an index of the teacher's probabilities is damaged (")


def test_another_vocabulary_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = world / STORE / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocabulary": 32_064}))
    assert refused(capsys, flags(world, tmp_path / "out", objective="kl")) == (
        f"{world / STORE}: the teacher chose among 32,064 tokens and --model has 3,344. Teacher and student need the "
        "same vocabulary: run lavic describe --top_logits with that of --model, or train with --objective nll."
    )


def test_other_tokens_for_the_same_text_are_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a tokenizer of the same size with other entries would have left it.
    store = TopLogits(world / STORE)
    index = shard_index(world / STORE, 0)
    assert index is not None
    marks = {image["image_name"]: image["text"] for image in index["images"]}
    changed = []
    for name, mark in marks.items():
        found = store.get(name)
        changed.append((name, mark, type(found)(found.targets + 1, found.ids, found.log_probs, found.rest)))
    write_shard(world / STORE, 0, changed, no_tokens(K, 3344))
    sentence = refused(capsys, flags(world, tmp_path / "out", objective="kl"))
    assert sentence.startswith(f"{world / STORE}: the probabilities of ")
    assert "belong to other target tokens. Description, prompt or tokenizer changed" in sentence


def test_descriptions_that_the_teacher_did_not_see_are_left_out_and_listed(world: Path, tmp_path: Path) -> None:
    items = train_rows(world)
    first, second, *_, last = items
    items[first][DESCRIPTIONS_KEY][f"{first}_0.jpg"] = "Something else."
    items[second]["title"] = "Another title"
    index = world / STORE / "00002.json"
    known = json.loads(index.read_text())
    known["images"] = [image for image in known["images"] if image["image_name"] != f"{last}_0.jpg"]
    index.write_text(json.dumps(known))
    write_train_rows(world, items)
    assert run_command_line(flags(world, tmp_path / "out", objective="kl")) == 0
    reasons = {row["key"]: row["reason"] for row in skipped(tmp_path / "out")}
    other = "the teacher's probabilities are those of another title or description"
    assert {name: reason.partition(":")[0] for name, reason in reasons.items()} == {
        f"{first}_0.jpg": other,
        f"{second}_0.jpg": other,
        f"{last}_0.jpg": "the teacher's probabilities do not hold it",
    }
    assert sum(row["samples"] for row in rows(tmp_path / "out")) == 9
    # The text alone needs no teacher.
    assert run_command_line(flags(world, tmp_path / "nll" / "out")) == 0
    assert sum(row["samples"] for row in rows(tmp_path / "nll" / "out")) == 12


def test_a_store_of_quite_other_texts_ends_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = train_rows(world)
    for item in items.values():
        item["title"] += " (new)"
    write_train_rows(world, items)
    sentence = refused(capsys, flags(world, tmp_path / "out", objective="kl"))
    assert "no sample is left; most frequent reason, 12 times: the teacher's probabilities are those of another" in (
        sentence
    )


def test_another_prompt_that_ends_alike_is_remarked_on(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remark = "Warning: The teacher's probabilities were made with another prompt than this run's."
    same = flags(stored, tmp_path / "same" / "out", objective="kl", max_steps=1)
    assert remark not in told(same, capsys)
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(yaml.safe_dump({"distill": "Look. " + DEFAULT_PROMPTS.distill}))
    other = flags(stored, tmp_path / "out", objective="kl", max_steps=1, prompts=prompts)
    assert remark in told(other, capsys)


# -- looked at before ----------------------------------------------------------------------------------------


def checked(words: list[str], capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command_line(["check", *words[1:], "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_lavic_check_looks_at_the_store_and_at_what_it_lacks(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(world, tmp_path / "out", objective="nll+kl", temperature=2)
    found = checked(words, capsys, 0)
    assert found["teacher"] == {"descriptions": 12, "k": K}
    assert [row["status"] for row in found["checks"] if row["name"] == "teacher's probabilities"] == ["ok"]
    items = train_rows(world)
    next(iter(items.values()))["title"] = "Another title"
    write_train_rows(world, items)
    found = checked([*words, "--max_left_out", "0.5"], capsys, 0)
    assert found["train"]["not_in_teachers_probabilities"] == 1
    assert found["train"]["pictures_missing"] == 0
    assert found["train"]["samples"] == 11
    assert [row["status"] for row in found["checks"] if "teacher" in row["name"]] == ["ok", "warning"]
    shutil.rmtree(world / STORE)
    found = checked(words, capsys, 1)
    stops = [row["name"] for row in found["checks"] if row["status"] == "no_go"]
    assert stops == ["teacher's probabilities"]


# -- reading the store ---------------------------------------------------------------------------------------


def test_a_store_of_many_shards_keeps_few_files_open(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TopLogits(stored / STORE)
    wanted = {name: plain.get(name) for name in plain}
    monkeypatch.setattr(top_logits, "MOST_OPEN_SHARDS", 2)
    store = TeacherStore(stored / STORE)
    for _ in range(2):
        for name, known in wanted.items():
            found = store._store.get(name)
            for field in ("targets", "ids", "log_probs", "rest"):
                assert np.array_equal(getattr(found, field), getattr(known, field))
            assert len(store._store._shards) <= 2
