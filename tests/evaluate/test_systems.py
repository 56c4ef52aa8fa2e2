"""What a system's name promises: its store, its base model, its prompt, and a training like the judged one's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_world import refused
from tune_world import evaluate_flags

from lavic.cli.main import run_command_line
from lavic.embed.store import ItemStore
from lavic.embed.writer import StoreWriter
from lavic.errors import InputError
from lavic.evaluate.config import EvaluateSettings
from lavic.evaluate.questions import stores_of
from lavic.evaluate.systems import FULL_TOKENS, UNDISTILLED, System, tuned_otherwise
from lavic.model.load import TINY_FOLDER
from lavic.tune.card import RECOMMENDER_FILE, Recommender, read_recommender
from lavic.tune.task import ADAPTER_FOLDER

ADDED = ("base", "steps", "seed", "prompts", "samples_per_step", "train_samples", "lora_r", "lora_alpha")


def make_store(folder: Path, **more: Any) -> Path:
    folder.mkdir()
    about = {
        **{"kind": "lavic item store", "format": 1, "views": 5, "dim": 8, "dtype": "fp32", "precision": "fp32"},
        **{"view_size": 40, "pixel_mean": [0.5], "pixel_std": [0.5], "model": {"name": "m", "mark": "00"}},
        **{"adapter": None, "versions": {}, **more},
    }
    with StoreWriter(folder, about):
        pass
    return folder


DISTILLED = {"adapter": {"name": "a", "fingerprint": "12"}}
ALL_TOKENS = {"image_tokens": "all", "views": 1}


@pytest.mark.parametrize(
    ("name", "made", "problem"),
    [
        (UNDISTILLED, DISTILLED, "the store was made with a stage-1 adapter, so its visual tokens are distilled."),
        (UNDISTILLED, ALL_TOKENS, "the store holds all image tokens, so it belongs to --full_tokens_store."),
        (FULL_TOKENS, {}, "the store holds five image tokens a picture, not all."),
        (FULL_TOKENS, DISTILLED, "the store holds five image tokens a picture, not all."),
    ],
)
def test_a_store_of_another_kind_than_its_flag_says_is_refused(
    tmp_path: Path, name: str, made: dict[str, Any], problem: str
) -> None:
    folder = make_store(tmp_path / "s", **made)
    with pytest.raises(InputError) as caught:
        stores_of(EvaluateSettings(), [System(name, tmp_path, folder)], None)
    assert caught.value.sentence.startswith(f"--{name}_store {folder}: {problem} Make one with lavic embed")


@pytest.mark.parametrize(("name", "made"), [(UNDISTILLED, {}), (FULL_TOKENS, ALL_TOKENS), ("lavic", DISTILLED)])
def test_a_store_of_the_right_kind_is_opened(tmp_path: Path, name: str, made: dict[str, Any]) -> None:
    folder = make_store(tmp_path / "s", **made)
    stores = stores_of(EvaluateSettings(), [System(name, tmp_path, folder)], None)
    assert isinstance(stores[folder], ItemStore)


# -- the base model and the prompt ---------------------------------------------------------------------------


def change_recommender(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    path = folder / RECOMMENDER_FILE
    written = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in written.items() if name not in drop}))


@pytest.mark.parametrize(
    ("part", "said_of_it"),
    [
        ("multi_modal_projector", "another model (tiny, not other)"),
        ("embed_tokens", "another language model behind the vision side of other"),
        ("lm_head", "another language model behind the vision side of other"),
    ],
)
def test_an_adapter_of_another_base_of_the_same_shapes_is_refused_without_pictures_too(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, said_of_it: str
) -> None:
    other = Path(shutil.copytree(TINY_FOLDER, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if part in name)
    save_file({**weights, name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"})
    adapter = world / "text" / ADAPTER_FOLDER
    words = evaluate_flags(world, tmp_path / "out", model=other, text_only=True, text_only_adapter=adapter)
    said = refused(capsys, words)
    assert said == (
        f"{adapter}: it was tuned on {said_of_it}. Give --model as lavic tune was given it, or another adapter."
    )
    # An older file does not say what its base was.
    change_recommender(adapter, drop=ADDED)
    assert run_command_line(words) == 0


def test_what_tune_writes_of_its_run(shop: Path) -> None:
    for folder, text_only in (("tuned", False), ("text", True)):
        found = read_recommender(shop / folder / ADAPTER_FOLDER)
        assert found.text_only == text_only
        assert found.base["model"]["name"] == "tiny"
        assert found.base["model"]["mark"]
        # 24 conversations in batches of four, one epoch.
        assert (found.steps, found.seed, found.candidate_type) == (6, 42, "st")
        assert (found.samples_per_step, found.train_samples, found.lora_r, found.lora_alpha) == (4, 24, 8, 32)
        assert found.prompts is not None


def test_an_adapter_tuned_with_another_wording_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text('recommend: "Which one? {context} {candidates} Answer:"\n')
    adapter = world / "tuned" / ADAPTER_FOLDER
    words = evaluate_flags(world, tmp_path / "out", adapter=adapter, prompts=prompts)
    assert refused(capsys, words) == (
        f"--adapter: the adapter {adapter}/ was tuned with another wording of the prompt. "
        "Give --prompts as lavic tune was given it."
    )
    # Only what stage 2 reads counts.
    prompts.write_text('describe: "What is it?"\n')
    assert run_command_line(evaluate_flags(world, tmp_path / "out", adapter=adapter, prompts=prompts)) == 0


# -- trained alike -------------------------------------------------------------------------------------------


def recommender(**more: Any) -> Recommender:
    return Recommender(False, {}, "st", 1e-3, 0.0, 1, **{"steps": 40, "seed": 0, **more})


def test_trainings_that_differ_from_the_judged_ones_are_named() -> None:
    judged = System("lavic", Path("a"), None, recommender())
    greedy = System("lavic_greedy", Path("a"), None, recommender(), greedy=True)
    other = System("text_only", Path("b"), None, recommender(seed=7, steps=80))
    assert tuned_otherwise([judged, greedy, other]) == (
        "text_only with optimizer steps 80 (lavic: 40); text_only with --seed 7 (lavic: 0)"
    )
    bare = System("zero_shot", None, None)
    unknown = System("text_only", Path("b"), None, recommender(seed=None, steps=None))
    assert tuned_otherwise([judged, unknown, bare]) == ""
    assert tuned_otherwise([bare, other]) == ""


def test_where_the_judged_system_has_no_adapter_the_first_that_has_one_is_compared_with() -> None:
    bare = System("zero_shot", None, None)
    undistilled = System("undistilled", Path("a"), None, recommender(seed=1))
    text_only = System("text_only", Path("b"), None, recommender(seed=2))
    assert tuned_otherwise([bare, undistilled, text_only]) == "text_only with --seed 2 (undistilled: 1)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.01}, "--lr 0.01 (lavic: 0.001)"),
        ({"samples_per_step": 8}, "samples per step 8 (lavic: 4)"),
        ({"train_samples": 20}, "training samples 20 (lavic: 24)"),
        ({"lora_r": 16}, "--lora_r 16 (lavic: 8)"),
        ({"lora_alpha": 16}, "--lora_alpha 16 (lavic: 32)"),
    ],
)
def test_rate_batch_rows_and_lora_are_compared_too(change: dict[str, Any], said: str) -> None:
    known = {"samples_per_step": 4, "train_samples": 24, "lora_r": 8, "lora_alpha": 32}
    judged = System("lavic", Path("a"), None, recommender(**known))
    other = System("text_only", Path("b"), None, replace(recommender(**known), **change))
    assert tuned_otherwise([judged, other]) == f"text_only with {said}"


def test_a_comparison_of_unlike_trainings_is_warned_of_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = {"adapter": world / "tuned" / ADAPTER_FOLDER, "text_only_adapter": world / "text" / ADAPTER_FOLDER}
    assert run_command_line(evaluate_flags(world, tmp_path / "out", **adapters)) == 0
    assert "tuned alike" not in capsys.readouterr().err
    change_recommender(adapters["text_only_adapter"], seed=7)
    assert run_command_line(evaluate_flags(world, tmp_path / "out", **adapters)) == 0
    said = capsys.readouterr().err
    assert said.count("Not all adapters were tuned alike") == 1
    assert "text_only with --seed 7 (lavic: 42)" in said


def test_looking_at_an_adapter_leaves_the_model_as_it_was(shop: Path) -> None:
    from lavic.embed.identity import base_marks
    from lavic.evaluate.systems import check_adapters
    from lavic.model.load import load_base

    base = load_base("tiny")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    folder = shop / "tuned" / ADAPTER_FOLDER
    check_adapters(base, base_marks(base), [System("lavic", folder, None, read_recommender(folder))])
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
