"""Whole runs of ``lavic evaluate``: the systems side by side, what is written, going on, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import refused
from tune_world import data_flags, evaluate_flags, rows_of, tune_flags, write_rows

from lavic.cli.main import run_command_line
from lavic.evaluate.answers import Answered
from lavic.evaluate.outputs import report
from lavic.evaluate.results import SUMMARY_COLUMNS
from lavic.files import sha256_file
from lavic.layout import data_paths
from lavic.model.load import TINY, load_base
from lavic.tune.samples import AskedRow
from lavic.tune.scoring import RowScores
from lavic.tune.task import ADAPTER_FOLDER


def all_systems(world: Path) -> dict[str, Any]:
    return {
        "adapter": world / "tuned" / ADAPTER_FOLDER,
        "text_only_adapter": world / "text" / ADAPTER_FOLDER,
        "undistilled_adapter": world / "tuned" / ADAPTER_FOLDER,
        "undistilled_store": world / "store",
    }


def tuned_on_all_image_tokens(world: Path, *, max_samples: int) -> dict[str, Any]:
    """A store of all image tokens, and a recommender tuned on it beside the one on five."""
    words = [word for name, path in data_paths(world / "shop").items() for word in (f"--{name}", str(path))]
    words += ["--model", "tiny", "--store_dtype", "fp32", "--num_workers", "0", "--image_tokens", "all"]
    assert run_command_line(["embed", "--output_dir", str(world / "all"), *words]) == 0
    full = {"item_store": world / "all", "max_length": 4000, "max_samples": max_samples, "batch_size": 2}
    assert run_command_line(tune_flags(world, world / "full", **full)) == 0
    return {
        "adapter": world / "tuned" / ADAPTER_FOLDER,
        "full_tokens_adapter": world / "full" / ADAPTER_FOLDER,
        "full_tokens_store": world / "all",
    }


def results(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def test_all_systems_answer_the_same_rows(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run_command_line(evaluate_flags(shop, output, **all_systems(shop))) == 0
    systems = results(output)["systems"]
    assert list(systems) == [
        "lavic",
        "lavic_greedy",
        "undistilled",
        "text_only",
        "zero_shot_text",
        "random",
        "candidate_order",
    ]
    assert {system["rows"] for system in systems.values()} == {12}
    assert {system["ceiling"] for system in systems.values()} == {1.0}
    assert {system["chance"] for system in systems.values()} == {0.25}
    assert systems["lavic"]["picture_share"] == 1
    assert systems["text_only"]["picture_share"] == 0
    assert systems["random"]["picture_share"] is systems["candidate_order"]["picture_share"] is None
    # The same adapter on the same store, under another name: the very same answers.
    assert systems["undistilled"]["values"] == systems["lavic"]["values"]
    assert systems["lavic"]["values"]["validity@1"]["value"] == 1
    shown = capsys.readouterr().out.splitlines()
    assert sum("lavic_greedy" in line for line in shown) == 4
    # Behind the table stands the next command, with its path.
    assert max(map(len, shown[:-1])) <= 80


def test_all_image_tokens_and_several_pictures_are_tuned_on_and_judged(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = data_paths(world / "shop")
    for picture in sorted(paths["train_images_dir"].glob("*_0.jpg"))[::2]:
        shutil.copy(picture, picture.with_name(picture.name.replace("_0.jpg", "_1.jpg")))
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    words += ["--model", "tiny", "--store_dtype", "fp32", "--num_workers", "0"]
    assert run_command_line(["embed", "--output_dir", str(world / "two"), "--images_per_item", "2", *words]) == 0
    two = {"item_store": world / "two", "images_per_item": 2}
    assert run_command_line(tune_flags(world, world / "several", **two)) == 0
    compared = {**tuned_on_all_image_tokens(world, max_samples=4), "max_length": 4000}
    assert run_command_line(evaluate_flags(world, tmp_path / "out", no_greedy=True, **compared)) == 0
    systems = results(tmp_path / "out")["systems"]
    assert list(systems)[:2] == ["lavic", "full_tokens"]
    assert systems["full_tokens"]["rows"] == 12
    answers = tmp_path / "out" / "answers"
    scored = [(answers / f"candidates_st_{name}.jsonl").read_text() for name in ("lavic", "full_tokens")]
    assert scored[0].splitlines()[1:] != scored[1].splitlines()[1:]
    several = {"adapter": world / "several" / ADAPTER_FOLDER, "no_greedy": True, **two}
    assert run_command_line(evaluate_flags(world, tmp_path / "two", **several)) == 0
    mixed = evaluate_flags(world, tmp_path / "no", **{**several, "images_per_item": 1})
    assert "was tuned with --images_per_item 2" in refused(capsys, mixed)
    wrong = evaluate_flags(world, tmp_path / "no", **{**compared, "full_tokens_store": world / "store"})
    said = refused(capsys, wrong)
    assert said.startswith(f"--full_tokens_store {world}/store: the store holds five image tokens a picture, not all.")


def test_answers_and_summary_are_as_published(shop: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_command_line(evaluate_flags(shop, output, **all_systems(shop))) == 0
    given = rows_of(shop, "test")
    for name in ("test_results_candidates_st.jsonl", "test_results_candidates_st_lavic_greedy.jsonl"):
        lines = [json.loads(line) for line in (output / name).read_text().splitlines()]
        for line, row in zip(lines, given, strict=True):
            answer, response = line.pop("recommended_st"), line.pop("response_st")
            assert line == row
            assert answer is None or answer in row["candidates_st"]
            assert isinstance(response, str)
            if name.endswith("st.jsonl"):
                assert answer == response
    with (output / "results_summary.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert tuple(table[0]) == SUMMARY_COLUMNS
    assert len(table) == 4
    assert table[0]["candidate_type"] == "candidates_st"
    assert table[0]["lr"] == "0.003"
    hits = results(output)["systems"]["lavic"]["values"]["recall@1"]["value"]
    assert float(table[0]["recall@1"]) == hits


def test_what_is_answered_already_is_not_answered_again(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*evaluate_flags(shop, tmp_path / "out", adapter=shop / "tuned" / ADAPTER_FOLDER, batch_size=4)]
    whole = [*evaluate_flags(shop, tmp_path / "whole", adapter=shop / "tuned" / ADAPTER_FOLDER, batch_size=4)]
    assert run_command_line(whole) == 0

    from lavic.tune import scoring

    original, calls = scoring.score_choices, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(scoring, "score_choices", counted)
    assert run_command_line(words) == 130
    assert not (tmp_path / "out" / "results.json").exists()
    assert run_command_line(words) == 0
    # One batch of three was there: two more for the judged system, three for the zero-shot one.
    assert len(calls) == 2 + 2 + 3
    for name in ("test_results_candidates_st.jsonl", "test_results_candidates_st_zero_shot_text.jsonl"):
        assert sha256_file(tmp_path / "out" / name) == sha256_file(tmp_path / "whole" / name)
    calls.clear()
    before = (tmp_path / "out" / "results.json").read_bytes(), (tmp_path / "out" / "results_summary.csv").read_bytes()
    assert run_command_line(words) == 0
    assert calls == []
    after = (tmp_path / "out" / "results.json").read_bytes(), (tmp_path / "out" / "results_summary.csv").read_bytes()
    assert after == before


def test_files_and_stores_are_read_once_for_all_systems(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lavic.embed.store import ItemStore
    from lavic.evaluate import questions, run
    from lavic.training import identity
    from lavic.tune import setup

    read: Counter[str] = Counter()

    def counted(place: Any, name: str, what: Callable[..., Any] = lambda *arguments: "") -> None:
        original = getattr(place, name)

        def called(*arguments: Any, **more: Any) -> Any:
            read[f"{name} {what(*arguments)}".strip()] += 1
            return original(*arguments, **more)

        monkeypatch.setattr(place, name, called)

    counted(setup, "read_titles")
    counted(questions, "rows_of")
    counted(identity, "sha256_file", lambda path: path.name)
    counted(run, "fingerprint", lambda folder: folder.parent.name)
    counted(ItemStore, "__init__", lambda store, folder: folder.name)
    shutil.copytree(world / "store", world / "other")
    words = evaluate_flags(world, tmp_path / "out", **{**all_systems(world), "undistilled_store": world / "other"})
    assert run_command_line(words) == 0
    # Five systems with the model: two look at one store, one at the other, two at none.
    assert read == {
        "read_titles": 1,
        "rows_of": 3,
        "sha256_file test.jsonl": 1,
        "sha256_file item2meta_train.json": 1,
        "sha256_file item2meta_valid.jsonl": 1,
        "fingerprint tuned": 1,
        "fingerprint text": 1,
        "__init__ store": 1,
        "__init__ other": 1,
    }
    assert results(tmp_path / "out")["systems"]["text_only"]["picture_share"] == 0


def test_what_the_judged_rows_lack_is_told_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(world, "test")
    rows[3]["candidates_st"] = ["B0NOWHERE01", *rows[3]["candidates_st"][1:]]
    write_rows(world, "test", rows)
    shutil.copytree(world / "store", world / "other")
    words = evaluate_flags(world, tmp_path / "out", **{**all_systems(world), "undistilled_store": world / "other"})
    assert run_command_line(words) == 0
    said = capsys.readouterr().err
    assert "1 candidates without metadata, titled 'No Title'\n" in said
    assert "1 candidates without a picture, shown by ID and title alone\n" in said


def test_a_store_that_holds_none_of_the_candidates_is_warned_of_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = evaluate_flags(world, tmp_path / "out", adapter=world / "tuned" / ADAPTER_FOLDER)
    rows = rows_of(world, "test")
    strange = [{**row, "candidates_st": [f"X{item_id}" for item_id in row["candidates_st"]]} for row in rows]
    # One item of the store is enough: the others are counted.
    write_rows(world, "test", [*strange[1:], rows[0]])
    assert run_command_line([*judged, "--overwrite"]) == 0
    assert "holds none of the candidates" not in capsys.readouterr().err
    write_rows(world, "test", strange)
    assert run_command_line([*judged, "--overwrite"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("holds none of the candidates") == 1
    assert (
        f"The item store {world}/store/ holds none of the candidates, so lavic, lavic_greedy saw no picture at all: "
        "give the store of these items, or complete it with lavic embed."
    ) in said


def test_the_bare_model_is_judged_without_an_adapter(shop: Path, tmp_path: Path) -> None:
    assert run_command_line(evaluate_flags(shop, tmp_path / "out")) == 0
    assert list(results(tmp_path / "out")["systems"]) == ["zero_shot", "zero_shot_text", "random", "candidate_order"]


def scores_by_id(_: Any, rows: list[AskedRow], *rest: Any, **more: Any) -> list[RowScores]:
    """What a model would say that only looks at the ID; one of few values, so that many are equal."""
    scores = [tuple(-float(zlib.crc32(item_id.encode()) % 3) for item_id in row.item_ids) for row in rows]
    return [RowScores(each, (1,) * len(each)) for each in scores]


def test_another_order_of_the_candidates_changes_no_ranking_by_score(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the model is blind to places, nothing else of the evaluation may look at them."""
    rows = rows_of(world, "test")
    found: list[dict[str, Answered]] = []

    def kept(settings: Any, systems: Any, answered: dict[str, Answered], *rest: Any) -> Any:
        found.append(answered)
        return report(settings, systems, answered, *rest)

    monkeypatch.setattr("lavic.evaluate.answers.score_rows", scores_by_id)
    monkeypatch.setattr("lavic.evaluate.run.report", kept)
    assert run_command_line(evaluate_flags(world, tmp_path / "one")) == 0
    write_rows(world, "test", [{**row, "candidates_st": row["candidates_st"][::-1]} for row in rows])
    assert run_command_line(evaluate_flags(world, tmp_path / "other")) == 0
    one, other = ({name: [each.ranking for each in of.answers] for name, of in run.items()} for run in found)
    assert one["zero_shot"] == other["zero_shot"]
    assert one["candidate_order"] == [tuple(row["candidates_st"]) for row in rows]
    assert other["candidate_order"] == [tuple(row["candidates_st"][::-1]) for row in rows]
    # The scores decide at all: their best is first.
    asked = found[0]["zero_shot"].rows
    for row, scores, ranking in zip(asked, scores_by_id(None, asked), one["zero_shot"], strict=True):
        assert scores.log_probs[row.item_ids.index(ranking[0])] == max(scores.log_probs)


def test_taking_an_adapter_off_leaves_the_model_as_it_was(shop: Path) -> None:
    from lavic.evaluate.systems import System, answering

    base = load_base(TINY)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    ids = torch.arange(300, 320)[None]
    with torch.no_grad():
        plain = base.model(input_ids=ids).logits
        with answering(base, System("lavic", shop / "tuned" / ADAPTER_FOLDER, None)):
            tuned = base.model(input_ids=ids).logits
        again = base.model(input_ids=ids).logits
    assert not torch.allclose(plain, tuned)
    assert torch.equal(plain, again)
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_odd_rows_are_answered_or_listed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(world, "test")
    rows[0]["gt_items"] = []
    rows[1]["gt_items"] = ["B0NOWHERE00"]
    rows[2]["candidates_st"] = rows[2]["candidates_st"] * 2
    wrong = [item_id for item_id in rows[3]["candidates_st"] if item_id not in rows[3]["gt_items"]]
    rows[3]["candidates_st"] = ["B0NOWHERE01", *wrong[1:], *rows[3]["gt_items"]]
    rows[4]["context"] = ""
    rows[5]["context"] = "A mug, please. " * 1400
    rows[6]["candidates_st"] = []
    rows[7]["gt_items"] = [rows[7]["candidates_st"][0], rows[7]["candidates_st"][1], rows[7]["candidates_st"][0]]
    write_rows(world, "test", rows)
    output = tmp_path / "out"
    words = evaluate_flags(world, output, adapter=world / "tuned" / ADAPTER_FOLDER, max_length=700)
    assert run_command_line(words) == 0
    system = results(output)["systems"]["lavic"]
    assert system["rows"] == 10
    assert system["rows_without_right_item"] == 1
    assert system["ceiling"] == pytest.approx(8 / 9)
    assert len((output / "skipped.jsonl").read_text().splitlines()) == 2
    said = capsys.readouterr()
    assert "1 candidates without metadata, titled 'No Title'" in said.err
    assert "1 conversations shortened for --max_length" in said.err


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"adapter": "nowhere"}, "nowhere: recommender.json is missing."),
    ({"adapter": "text"}, "was tuned without pictures. Give it as --text_only_adapter."),
    ({"text_only_adapter": "tuned"}, "was tuned with pictures. Give it as --adapter."),
    ({"undistilled_adapter": "tuned"}, "--undistilled_store: the two belong together. Give both or none."),
    ({"candidate_type": "bm25"}, "no row has candidates_bm25. It has: candidates_gpt_large, candidates_st."),
    ({"category": "x"}, "--category: there is no category 'x'. There are: toy_shop."),
    ({"item_store": "nowhere"}, "nowhere: there is no item store."),
    ({"vision_adapter": "x", "text_only": True}, "--vision_adapter with --text_only: no picture is shown"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_wrong_input_is_one_sentence(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], sentence: str
) -> None:
    places = {"text": shop / "text" / ADAPTER_FOLDER, "tuned": shop / "tuned" / ADAPTER_FOLDER}
    given = {name: places.get(value, value) for name, value in change.items()}
    assert sentence in refused(capsys, evaluate_flags(shop, tmp_path / "out", **given))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "is not what lavic tune writes"), ('{"lr": "fast"}', "(at "), ("[]", "is not what lavic tune writes")],
)
def test_a_damaged_recommender_is_not_called_missing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    path = world / "tuned" / ADAPTER_FOLDER / "recommender.json"
    path.write_text(text)
    said = refused(capsys, evaluate_flags(world, tmp_path / "out", adapter=path.parent))
    assert said.startswith(f"{path}: is not what lavic tune writes")
    assert sentence in said


def test_the_folder_of_something_else_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world / "tuned"
    before = {path: sha256_file(path) for path in folder.rglob("*") if path.is_file() and path.name != ".lavic.lock"}
    for more in ({}, {"overwrite": True}):
        said = refused(capsys, evaluate_flags(world, folder, adapter=folder / ADAPTER_FOLDER, **more))
        assert said.startswith(f"{folder}/ holds something else than an evaluation (checkpoint.safetensors, ")
    assert {path: sha256_file(path) for path in before} == before


def test_a_system_without_room_is_refused_before_any_answers(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # All image tokens of four candidates do not fit where the five of each do.
    compared = {**tuned_on_all_image_tokens(world, max_samples=2), "max_length": 500}
    said = refused(capsys, evaluate_flags(world, tmp_path / "out", **compared))
    assert "12 of 12 conversations are too long for full_tokens" in said
    assert not (tmp_path / "out" / "answers").exists()


def test_a_store_of_another_stage_1_adapter_than_the_recommender_learnt_from_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lavic.model.adapters import LoraSettings, attach_vision_lora, save_adapter

    save_adapter(attach_vision_lora(load_base(TINY).model, LoraSettings()), tmp_path / "a", base_name=TINY, card="")
    images = {
        "train_images_dir": shop / "shop" / "train_images",
        "val_images_dir": shop / "shop" / "valid_images",
    }
    words = data_flags(shop, item_store=None, conversations=None, adapter=tmp_path / "a", output_dir=tmp_path / "s")
    more = [word for name, path in images.items() for word in (f"--{name}", str(path))]
    assert run_command_line(["embed", *words, *more, "--num_workers", "0"]) == 0
    capsys.readouterr()
    flags = evaluate_flags(shop, tmp_path / "out", adapter=shop / "tuned" / ADAPTER_FOLDER, item_store=tmp_path / "s")
    sentence = refused(capsys, flags)
    assert "the store was made with another stage-1 adapter" in sentence
    assert "was tuned on what that made" in sentence


def test_an_adapter_of_another_base_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    path = world / "tuned" / ADAPTER_FOLDER / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: tensor[..., :-1].contiguous() for name, tensor in weights.items()}, path, {"format": "pt"})
    sentence = refused(capsys, evaluate_flags(world, tmp_path / "out", adapter=path.parent))
    assert "the adapter is of another model" in sentence
