"""What an evaluation does to a folder that holds one: nothing before all is checked, nothing to another one's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from small_world import refused
from tune_world import CATEGORY, evaluate_flags, rows_of, write_rows

from lavic.cli.main import run_command_line
from lavic.errors import ConfigError
from lavic.files import sha256_file
from lavic.tune import scoring
from lavic.tune.task import ADAPTER_FOLDER


@pytest.fixture(scope="module")
def evaluated(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an evaluation of the bare model leaves."""
    output = tmp_path_factory.mktemp("evaluated") / "out"
    assert run_command_line(evaluate_flags(shop, output)) == 0
    return output


@pytest.fixture
def output(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "out"))


def content(folder: Path) -> dict[Path, str]:
    return {path: sha256_file(path) for path in folder.rglob("*") if path.is_file() and path.name != ".lavic.lock"}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A one for each batch that a model scores from now on."""
    calls: list[int] = []
    original = scoring.score_choices

    def score(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        return original(*arguments, **more)

    monkeypatch.setattr(scoring, "score_choices", score)
    return calls


def no_bitsandbytes() -> None:
    raise ConfigError("it needs bitsandbytes", where="--quantize nf4")


def other_adapter(world: Path) -> Path:
    """One that does not fit the model."""
    path = world / "tuned" / ADAPTER_FOLDER / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: tensor[..., :-1].contiguous() for name, tensor in weights.items()}, path, {"format": "pt"})
    return path.parent


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"quantize": "nf4", "text_only": True}, "it needs bitsandbytes"),
        ({"adapter": other_adapter}, "the adapter is of another model"),
        ({"candidate_type": "bm25"}, "no row has candidates_bm25"),
        ({"max_length": 100}, "candidates and answer alone are longer than --max_length"),
        ({"undistilled_adapter": "tuned", "undistilled_store": "nowhere"}, "there is no such folder"),
    ],
)
def test_what_is_refused_deletes_nothing(
    world: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr("lavic.training.base_model.require_bitsandbytes", no_bitsandbytes)
    places = {"tuned": world / "tuned" / ADAPTER_FOLDER, "nowhere": world / "nowhere"}
    given = {name: value(world) if callable(value) else places.get(value, value) for name, value in change.items()}
    before = content(output)
    assert sentence in refused(capsys, evaluate_flags(world, output, overwrite=True, **given))
    assert content(output) == before


def test_overwrite_answers_anew_and_keeps_the_list_of_rows_left_out(world: Path, output: Path) -> None:
    (output / "test_results_candidates_old.jsonl").write_text("")
    rows = rows_of(world, "test")
    write_rows(world, "test", [{**rows[0], "candidates_st": []}, *rows[1:]])
    assert run_command_line(evaluate_flags(world, output, overwrite=True)) == 0
    assert not (output / "test_results_candidates_old.jsonl").exists()
    assert len((output / "skipped.jsonl").read_text().splitlines()) == 1
    assert json.loads((output / "results.json").read_text())["systems"]["zero_shot"]["rows"] == 11


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"split": "valid"}, "--split (was test, is valid), content of the conversations."),
        ({"batch_size": 2}, "--batch_size (was 4, is 2)."),
        ({"max_rows": 5}, "--max_rows (was None, is 5)."),
        ({"val_data": None}, "content of --val_data."),
    ],
)
def test_another_evaluation_is_refused_and_leaves_the_first(
    shop: Path, output: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], named: str
) -> None:
    before = content(output)
    said = refused(capsys, evaluate_flags(shop, output, **change))
    assert said == (
        f"{output}/ holds an evaluation with other settings or data: {named} "
        "Give the same ones, replace it with --overwrite, or choose another --output-dir."
    )
    assert content(output) == before


def test_another_category_or_model_is_refused(world: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lavic.model.load import TINY_FOLDER

    other = Path(shutil.copytree(TINY_FOLDER, world / "model"))
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "embed_tokens" in name)
    save_file({**weights, name: weights[name] * 2}, other / "model.safetensors", {"format": "pt"})
    before = content(output)
    said = refused(capsys, evaluate_flags(world, output, model=other))
    assert "other settings or data: content of --model." in said
    shutil.move(world / "shop" / CATEGORY, world / "shop" / "amazon_home")
    said = refused(capsys, evaluate_flags(world, output))
    assert "other settings or data: --category (was toy_shop, is amazon_home)." in said
    assert content(output) == before


def test_answers_to_another_list_of_candidates_stay(
    shop: Path, output: Path, tmp_path: Path, counted: list[int]
) -> None:
    first = (output / "results.json").read_bytes()
    assert run_command_line(evaluate_flags(shop, output, candidate_type="gpt_large")) == 0
    assert counted
    assert json.loads((output / "results.json").read_text())["about"]["candidate_type"] == "gpt_large"
    assert (output / "results_candidates_gpt_large.json").read_bytes() == (output / "results.json").read_bytes()
    assert (output / "results_candidates_st.json").read_bytes() == first
    counted.clear()
    assert run_command_line(evaluate_flags(shop, output)) == 0
    assert counted == []
    assert (output / "results.json").read_bytes() == first


def test_settings_may_change_where_there_are_no_answers_yet(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first batch that was too large for the memory leaves nothing to lose."""
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "score_choices", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
        assert run_command_line(evaluate_flags(shop, tmp_path / "out")) == 2
    assert run_command_line(evaluate_flags(shop, tmp_path / "out", batch_size=2)) == 0


# -- another adapter, and a further system ---------------------------------------------------------------------


def change_weights(adapter: Path) -> None:
    """Make it another adapter that fits the model."""
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def test_another_adapter_under_the_same_name_is_refused_and_keeps_the_firsts_answers(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, adapter = tmp_path / "out", world / "tuned" / ADAPTER_FOLDER
    assert run_command_line(evaluate_flags(world, output, adapter=adapter)) == 0
    before = content(output)
    change_weights(adapter)
    other = evaluate_flags(world, output, adapter=adapter, no_greedy=True)
    assert refused(capsys, other) == (
        f"{output}/ holds answers of lavic with another adapter, item store or --max_new_tokens. "
        "Give the same ones, replace the evaluation with --overwrite, or choose another --output-dir."
    )
    assert content(output) == before
    assert run_command_line([*other, "--overwrite"]) == 0
    first, *answers = (output / "answers" / "candidates_st_lavic.jsonl").read_text().splitlines()
    assert first
    assert len(answers) == 12
    # Nothing of the first adapter is left to be mixed up with it.
    assert not (output / "test_results_candidates_st_lavic_greedy.jsonl").exists()
    assert len((output / "results_summary.csv").read_text().splitlines()) == 2


def test_a_store_with_other_tokens_for_the_same_adapter_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"adapter": world / "tuned" / ADAPTER_FOLDER, "max_new_tokens": 4}
    output = tmp_path / "out"
    assert run_command_line(evaluate_flags(world, output, **flags)) == 0
    said = refused(capsys, evaluate_flags(world, output, **{**flags, "max_new_tokens": 5}))
    assert said.startswith(f"{output}/ holds answers of lavic_greedy with another adapter, item store or --max_new_t")
    path = world / "store" / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line | ({"mark": "0" * 16} if "mark" in line else {})) + "\n" for line in lines))
    said = refused(capsys, evaluate_flags(world, output, **flags))
    assert said.startswith(f"{output}/ holds answers of lavic, lavic_greedy with another adapter, item store or --max_")


def test_a_further_system_is_answered_beside_those_that_are_there(
    world: Path, tmp_path: Path, counted: list[int]
) -> None:
    output, adapter = tmp_path / "out", world / "tuned" / ADAPTER_FOLDER
    assert run_command_line(evaluate_flags(world, output, adapter=adapter, no_greedy=True)) == 0
    before = content(output / "answers")
    counted.clear()
    text_only = world / "text" / ADAPTER_FOLDER
    both = evaluate_flags(world, output, adapter=adapter, no_greedy=True, text_only_adapter=text_only)
    assert run_command_line(both) == 0
    # Twelve conversations in batches of four, of the new system only.
    assert len(counted) == 3
    assert content(output / "answers").items() >= before.items()
    assert len((output / "results_summary.csv").read_text().splitlines()) == 3


def test_a_damaged_journal_is_refused_with_what_to_do(
    world: Path, output: Path, capsys: pytest.CaptureFixture[str], counted: list[int]
) -> None:
    path = output / "answers" / "candidates_st_zero_shot.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "###\n", *lines[4:]]))
    assert refused(capsys, evaluate_flags(world, output)) == (
        f"{path}, line 4: the line is not a JSON object. Delete {path} to answer its rows again, or replace the whole "
        "evaluation with --overwrite."
    )
    path.unlink()
    assert run_command_line(evaluate_flags(world, output)) == 0
    assert len(counted) == 3
