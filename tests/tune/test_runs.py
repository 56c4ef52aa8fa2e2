"""Whole runs of ``lavic tune``: what they leave, going on after a stop, and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_world import refused, skipped
from tune_world import CATEGORY, evaluate_flags, make_shop, rows_of, tune_flags, write_rows

from lavic.cli.main import run_command_line
from lavic.embed.store import ItemStore
from lavic.embed.writer import Entry, StoreWriter
from lavic.files import sha256_file
from lavic.formats import NO_TITLE
from lavic.model.adapters import canonical_key, language_linears
from lavic.model.choices import ChoiceScores, score_choices
from lavic.model.load import TINY, load_base
from lavic.model.losses import TargetLoss
from lavic.training import base_model
from lavic.training.checkpoints import CHECKPOINT_FILE
from lavic.training.loop import MicroStep, Trainer
from lavic.training.run_log import EVENTS_FILE, TIMING_FIELDS
from lavic.tune import scoring, task
from lavic.tune.card import RECOMMENDER_FILE, read_recommender
from lavic.tune.config import PUBLISHED, TuneSettings
from lavic.tune.task import ADAPTER_FOLDER, TuneMicroStep, TuneTask


class StruckError(RuntimeError):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def world(shop: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(shop, tmp_path / "world"))


def events(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / EVENTS_FILE).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in {*TIMING_FIELDS, "settings"}} for row in rows]


def left_by(output: Path) -> dict[str, str]:
    """Hashes of what equal runs must leave equal."""
    names = [CHECKPOINT_FILE, *(f"{ADAPTER_FOLDER}/{path.name}" for path in (output / ADAPTER_FOLDER).iterdir())]
    names += [path.name for path in output.glob("val_metrics_epoch_*.txt")]
    return {name: sha256_file(output / name) for name in sorted(names)}


def struck_at(step: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = TuneTask.step_done

    def struck(self: TuneTask, report: Any) -> None:
        original(self, report)
        if report.step == step:
            raise StruckError

    with monkeypatch.context() as patched:
        patched.setattr(TuneTask, "step_done", struck)
        assert run_command_line(arguments) == 70


# -- what a run leaves ---------------------------------------------------------------------------------------


def test_a_run_leaves_an_adapter_its_card_and_its_metrics(shop: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_command_line(tune_flags(shop, output)) == 0
    weights = load_file(output / ADAPTER_FOLDER / "adapter_model.safetensors")
    places = {canonical_key(key).rsplit(".lora_", 1)[0] for key in weights}
    base = load_base(TINY)
    assert places == {name.removeprefix("model.") for name in language_linears(base.model)}
    assert any(tensor.abs().sum() > 0 for key, tensor in weights.items() if "lora_B" in key)
    card = (output / ADAPTER_FOLDER / "README.md").read_text()
    assert "24, candidates_st" in card
    assert str(tmp_path) not in card
    metrics = (output / "val_metrics_epoch_1.txt").read_text()
    assert metrics.startswith("Val HR@1: ")
    assert "Rows: 20\nRows with a right candidate: 20\n" in metrics
    recommender = read_recommender(output / ADAPTER_FOLDER)
    assert not recommender.text_only
    assert recommender.candidate_type == "st"
    assert recommender.visual_tokens["adapter"] is None
    rows = events(output)
    assert [row["kind"] for row in rows if row["kind"] != "step"] == ["start", "validation", "checkpoint"] * 1 + [
        "checkpoint",
        "end",
    ]
    assert rows[0]["train_samples"] == 24
    assert sum(row["kind"] == "step" for row in rows) == 6


def test_the_best_adapter_judged_again_has_the_recorded_quality(shop: Path, tmp_path: Path) -> None:
    from lavic.evaluate.run import RESULTS_FILE

    output = tmp_path / "out"
    assert run_command_line(tune_flags(shop, output, num_epochs=2)) == 0
    best = max((row["hr_at_1"], -row["val_loss"]) for row in events(output) if row["kind"] == "validation")
    words = tune_flags(shop, tmp_path / "ev", adapter=output / ADAPTER_FOLDER, split="valid", resamples=100)
    drop = {"--log_dir", "--batch_size", "--lr"}
    kept = [word for at, word in enumerate(words) if word not in drop and words[at - 1] not in drop]
    assert run_command_line(["evaluate", *kept[1:], "--no_greedy", "--no_zero_shot"]) == 0
    found = json.loads((tmp_path / "ev" / RESULTS_FILE).read_text())
    assert found["systems"]["lavic"]["values"]["hr@1"]["value"] == best[0]


def test_vision_tower_and_everything_frozen_stay_as_they_were(shop: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    original = TuneTask.keep_best

    def looked(self: TuneTask, step: int) -> None:
        original(self, step)
        seen.update({name: tensor.clone() for name, tensor in self.model.llava.state_dict().items()})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TuneTask, "keep_best", looked)
        assert run_command_line(tune_flags(shop, tmp_path / "out")) == 0
    before = load_base(TINY).model.state_dict()
    for name, tensor in seen.items():
        if "lora_" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer.", ".")]), name


def test_without_pictures_no_placeholder_and_another_result(shop: Path, tmp_path: Path) -> None:
    assert run_command_line(tune_flags(shop, tmp_path / "text", text_only=True, item_store=None)) == 0
    assert run_command_line(tune_flags(shop, tmp_path / "seen")) == 0
    assert read_recommender(tmp_path / "text" / ADAPTER_FOLDER).text_only
    assert events(tmp_path / "text")[0]["picture_share"] == 0
    assert events(tmp_path / "seen")[0]["picture_share"] == 1
    assert left_by(tmp_path / "text") != left_by(tmp_path / "seen")


def test_as_published(shop: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_command_line(tune_flags(shop, output, published=True, num_epochs=2)) == 0
    weights = load_file(output / ADAPTER_FOLDER / "adapter_model.safetensors")
    assert any(canonical_key(key).startswith("lm_head.") for key in weights)
    config = (output / "config.yaml").read_text()
    assert "teach_eos: false" in config
    assert "shuffle_candidates: false" in config
    assert events(output)[-1]["best_step"] == 12  # the last


@pytest.mark.parametrize("said", [True, 1, "yes", "on", "True", "1"])
def test_as_published_however_yes_is_spelt(said: Any) -> None:
    settings = TuneSettings(published=said, text_only=True, item_store=None)
    assert {name: getattr(settings, name) for name in PUBLISHED} == PUBLISHED


def test_scores_that_are_no_numbers_end_the_run_in_one_sentence(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def astray(*arguments: Any, **more: Any) -> ChoiceScores:
        found = score_choices(*arguments, **more)
        found.log_probs[-1][0] = float("nan")
        return found

    monkeypatch.setattr(scoring, "score_choices", astray)
    assert run_command_line(tune_flags(shop, tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert "the scores of candidates are no finite numbers" in said
    assert "Traceback" not in said
    assert run_command_line(evaluate_flags(shop, tmp_path / "ev")) == 2
    assert "the scores of candidates are no finite numbers" in capsys.readouterr().err
    # Nothing is kept that each repetition would stumble over.
    assert not any("nan" in path.read_text().lower() for path in (tmp_path / "ev" / "answers").iterdir())


def test_only_the_conversation_whose_own_loss_is_not_finite_is_named(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, drawn = task.target_loss, []

    def of_the_third(*arguments: Any, **more: Any) -> TargetLoss:
        loss = original(*arguments, **more)
        return replace(loss, nats=loss.nats.masked_fill(loss.rows == 2, torch.nan))

    def named(self: TuneTask, *arguments: Any) -> TuneMicroStep:
        drawn.append(made(self, *arguments))
        return drawn[-1]

    made = TuneTask._micro_step
    monkeypatch.setattr(task, "target_loss", of_the_third)
    monkeypatch.setattr(TuneTask, "_micro_step", named)
    assert run_command_line(tune_flags(shop, tmp_path / "out")) == 2
    assert f"the loss of step 1 is nan, with {drawn[0].names[2]} in it" in " ".join(capsys.readouterr().err.split())


def test_published_is_at_odds_with_its_contrary(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, [*tune_flags(shop, tmp_path / "out", published=True), "--no_keep_last"])
    assert sentence == "--published: it is at odds with --keep_last."


def first_gradients(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the first optimizer step follows, before it is clipped: behind Adam, noise would look like a difference."""
    found: list[torch.Tensor] = []
    original = Trainer._clip

    def looked(self: Trainer, micro_steps: list[MicroStep]) -> float:
        if not found:
            found.extend(parameter.grad.clone() for parameter in self.parameters)
        return original(self, micro_steps)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_clip", looked)
        # In fp32 the rounding of sums in another order hides small differences.
        patched.setattr(base_model, "weights_dtype", lambda _: torch.float64)
        assert run_command_line(arguments) == 0
    assert found[0].dtype == torch.float64
    return found


def make_ragged(world: Path) -> Path:
    """Rows of two, three or four candidates, of which none, some or all have a picture."""
    rows = rows_of(world, "train")
    for number, row in enumerate(rows):
        unknown = (0, 1, 2, 4)[number % 4]
        kept = row["candidates_st"][: 2 + number % 3]
        row["candidates_st"] = [f"B0UNKNOWN{at}" if at < unknown else item_id for at, item_id in enumerate(kept)]
        if unknown == 4:  # the right item too
            row["gt_items"] = ["B0UNKNOWN9"]
    write_rows(world, "train", rows)
    return world


def pictures_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """From now on, of each micro-batch: of each sample how many candidates it has, and how many with a picture."""
    found: list[list[tuple[int, int]]] = []
    original = TuneMicroStep.nats

    def looked(self: TuneMicroStep) -> torch.Tensor:
        found.append([(len(row), sum(each.has_picture for each in row)) for row in self.candidates])
        return original(self)

    monkeypatch.setattr(TuneMicroStep, "nats", looked)
    return found


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert max(float(tensor.abs().max()) for tensor in wanted) > 1e-3
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9 * float(other.abs().max() + 1e-3))


def test_equal_steps_whatever_the_micro_batch(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 8 samples is the same as 8 x 1, 4 x 2 or 1 x 8, however uneven the micro-batches are."""
    gradients: list[list[torch.Tensor]] = []
    shown = pictures_of_steps(monkeypatch)
    make_ragged(world)
    for batch in (1, 2, 8):
        more = {"batch_size": batch, "gradient_accumulation": 8 // batch, "no_group_by_length": True}
        words = tune_flags(world, tmp_path / f"out{batch}", max_steps=1, lora_dropout=0, **more)
        gradients.append(first_gradients(words, monkeypatch))
    # In one micro-batch of 8 stand rows of several lengths, and with pictures at none, some and all of them.
    assert len(shown[-1]) == 8
    assert len({candidates for candidates, _ in shown[-1]}) >= 3
    assert len({pictures for _, pictures in shown[-1]}) >= 3
    assert any(pictures == 0 for _, pictures in shown[-1])
    assert_same(gradients[1], gradients[0])
    assert_same(gradients[2], gradients[0])


def test_short_cuts_change_no_gradient(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = make_ragged(world)
    usual = {"max_steps": 1, "lora_dropout": 0}
    off = {f"no_{name}": True for name in ("target_logits", "answer_states", "lean_lora")}
    plain = first_gradients(tune_flags(shop, tmp_path / "plain", **usual, **off), monkeypatch)
    fast = first_gradients(tune_flags(shop, tmp_path / "fast", **usual), monkeypatch)
    again = tune_flags(shop, tmp_path / "again", **usual, activation_checkpointing=True)
    assert_same(fast, plain)
    assert_same(first_gradients(again, monkeypatch), plain)


# -- stopping and going on -----------------------------------------------------------------------------------


def test_a_run_that_was_struck_goes_on_to_the_same_bits(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"num_epochs": 2, "checkpoint_every": "2", "val_every": "3"}
    assert run_command_line(tune_flags(shop, tmp_path / "whole", **usual)) == 0
    struck_at(5, tune_flags(shop, tmp_path / "out", **usual), monkeypatch)
    struck_at(9, tune_flags(shop, tmp_path / "out", **usual, resume=True), monkeypatch)
    assert run_command_line(tune_flags(shop, tmp_path / "out", **usual, resume=True)) == 0
    assert left_by(tmp_path / "out") == left_by(tmp_path / "whole")
    assert events(tmp_path / "out") == events(tmp_path / "whole")


def test_a_finished_run_says_so(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(tune_flags(shop, tmp_path / "out")) == 0
    before = left_by(tmp_path / "out")
    assert run_command_line(tune_flags(shop, tmp_path / "out", resume=True)) == 0
    assert "has finished already, at step 6" in capsys.readouterr().err
    assert left_by(tmp_path / "out") == before
    assert "--resume" in refused(capsys, tune_flags(shop, tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": "1e-3"}, "--lr (was 0.003, is 0.001)"),
        ({"text_only": True}, "--text_only (was False, is True)"),
        ({"candidate_type": "gpt_large"}, "--candidate_type (was st, is gpt_large)"),
    ],
)
def test_another_run_is_not_gone_on_with(
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    named: str,
) -> None:
    few = {"checkpoint_every": "1"}
    struck_at(2, tune_flags(shop, tmp_path / "out", **few), monkeypatch)
    assert named in refused(capsys, tune_flags(shop, tmp_path / "out", **few, resume=True, **change))


def test_other_conversations_are_not_gone_on_with(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"checkpoint_every": "1"}
    struck_at(2, tune_flags(world, tmp_path / "out", **few), monkeypatch)
    write_rows(world, "train", rows_of(world, "train")[:-1])
    sentence = refused(capsys, tune_flags(world, tmp_path / "out", **few, resume=True))
    assert "other settings or data: content of train.jsonl." in sentence


def add_to_store(folder: Path, item_id: str) -> None:
    """One more picture's tokens, as a later run of ``lavic embed`` adds them."""
    store = ItemStore(folder)
    with StoreWriter(folder, dict(store.about)) as writer:
        writer.begin({"batch_size": 1, "threads": 1, "device": "cpu"})
        writer.append([Entry(item_id, 0, 10, "aa")], torch.zeros(1, store.views, store.dim))
        writer.finish({})


def test_a_store_may_grow_while_a_run_is_stopped_but_not_change_what_the_run_shows(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"checkpoint_every": "1", "max_steps": 3}
    assert run_command_line(tune_flags(world, tmp_path / "whole", **few)) == 0
    struck_at(2, tune_flags(world, tmp_path / "out", **few), monkeypatch)
    store = world / "store"
    before = shutil.copytree(store, tmp_path / "before")
    add_to_store(store, rows_of(world, "train")[0]["candidates_st"][0])
    said = refused(capsys, tune_flags(world, tmp_path / "out", **few, resume=True))
    assert "other settings or data: content of --item_store." in said
    shutil.rmtree(store)
    shutil.copytree(before, store)
    add_to_store(store, "B0UNRELATED")
    assert run_command_line(tune_flags(world, tmp_path / "out", **few, resume=True)) == 0
    assert left_by(tmp_path / "out") == left_by(tmp_path / "whole")


# -- what is wrong with the input ----------------------------------------------------------------------------


def test_items_without_metadata_or_picture_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(world, "train")
    for row in rows:
        row["candidates_st"] = [*row["candidates_st"][:-1], "B0UNKNOWN00"]
    write_rows(world, "train", rows)
    assert run_command_line(tune_flags(world, tmp_path / "out", max_steps=1)) == 0
    assert NO_TITLE == "No Title"
    said = capsys.readouterr()
    assert "candidates without metadata, titled 'No Title'" in said.out
    assert "candidates without a picture, shown by ID and title alone" in said.out


def test_rows_without_use_are_listed_and_the_rest_is_trained_on(world: Path, tmp_path: Path) -> None:
    rows = rows_of(world, "train")
    rows[0]["gt_items"] = []
    rows[1]["context"] = "  "
    del rows[2]["candidates_st"]
    rows[3]["candidates_st"] = "B000000000"
    rows[4]["gt_items"] = ["../../etc/passwd"]
    write_rows(world, "train", rows)
    with (world / "shop" / CATEGORY / "train.jsonl").open("a") as stream:
        stream.write('{"context": "cut o\n')
    output = tmp_path / "out"
    assert run_command_line(tune_flags(world, output, max_steps=1)) == 0
    assert len(skipped(output)) == 6
    assert events(output)[0]["train_samples"] == 24 - 5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"category": "amazon_home"}, "--category: there is no category 'amazon_home'. There are: toy_shop."),
    ({"candidate_type": "bm25"}, "no row has candidates_bm25. It has: candidates_gpt_large, candidates_st."),
    ({"item_store": None}, "item_store: there is no item store. Make it with lavic embed"),
    ({"item_store": "none"}, "--item_store: it is needed. Give one, or --text_only to tune without pictures."),
    ({"vision_adapter": "nowhere"}, "nowhere: no adapter here"),
    (
        {"max_length": "100"},
        "answer alone are longer than --max_length. Give a larger --max_length, or a list of fewer",
    ),
    ({"conversations": "nowhere"}, "nowhere: there is no such folder."),
    ({"item_meta_path": "nowhere.json"}, "nowhere.json"),
    ({"text_only": True, "vision_adapter": "x"}, "--vision_adapter with --text_only"),
]


@pytest.mark.parametrize(
    ("change", "sentence"), WRONG, ids=[next(iter(change)) + str(at) for at, (change, _) in enumerate(WRONG)]
)
def test_wrong_input_is_one_sentence(
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, tune_flags(shop, tmp_path / "out", **change))
    assert not (tmp_path / "out" / ADAPTER_FOLDER).exists()


def test_a_store_of_another_adapter_is_refused(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lavic.model.adapters import LoraSettings, attach_vision_lora, save_adapter

    save_adapter(attach_vision_lora(load_base(TINY).model, LoraSettings()), tmp_path / "a", base_name=TINY, card="")
    flags = {"vision_adapter": tmp_path / "a", "image_dir": shop / "shop" / "train_images"}
    sentence = refused(capsys, tune_flags(shop, tmp_path / "out", **flags))
    assert "the store was made with another stage-1 adapter (none, not " in sentence
    # With the data that the default flags of lavic embed would not find.
    assert sentence.endswith(
        f"or make it anew: lavic embed --model tiny --adapter {tmp_path}/a --item_meta_path "
        f"{shop}/shop/item2meta_train.json --val_data {shop}/shop/item2meta_valid.jsonl --train_images_dir "
        f"{shop}/shop/train_images --output_dir {shop}/store --overwrite"
    )


def test_an_adapter_of_the_language_model_is_no_stage_1_adapter(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lavic.model.adapters import LoraSettings, attach_language_lora, save_adapter

    save_adapter(attach_language_lora(load_base(TINY).model, LoraSettings()), tmp_path / "a", base_name=TINY, card="")
    # Nothing is loaded before it is said.
    for command in ("tune", "evaluate"):
        monkeypatch.setattr(f"lavic.{command}.run.load_model", None)
    for flags in (tune_flags, evaluate_flags):
        assert refused(capsys, flags(shop, tmp_path / "out", model_dir=tmp_path / "a")) == (
            f"{tmp_path}/a: there is no LoRA on the vision tower in it, so it is no stage-1 adapter. "
            "Give the vision_lora_adapter_best folder that lavic distill wrote."
        )


def test_a_stage_1_adapter_makes_the_store_that_is_not_there(shop: Path, tmp_path: Path) -> None:
    from lavic.model.adapters import LoraSettings, attach_vision_lora, save_adapter

    save_adapter(attach_vision_lora(load_base(TINY).model, LoraSettings()), tmp_path / "a", base_name=TINY, card="")
    more = {
        "item_store": tmp_path / "made",
        "model_dir": tmp_path / "a",
        "image_dir": shop / "shop" / "train_images",
        "val_images_dir": shop / "shop" / "valid_images",
    }
    assert run_command_line(tune_flags(shop, tmp_path / "out", max_steps=1, **more)) == 0
    assert len(ItemStore(tmp_path / "made")) == 300
    recommender = json.loads((tmp_path / "out" / ADAPTER_FOLDER / RECOMMENDER_FILE).read_text())
    assert recommender["visual_tokens"]["adapter"]["name"] == "a"
