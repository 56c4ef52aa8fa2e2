"""The file of an epoch's figures, the closing check, and the card beside the adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import lavic
from lavic.distill.card import CardFacts, model_card
from lavic.distill.config import DistillSettings
from lavic.distill.criteria import Criterion, exit_code, judge, judge_adapter, met, write_val_metrics
from lavic.distill.evaluation import ValidationLoss
from lavic.model.adapters import WEIGHTS_FILE, LoraSettings

# The figures that others reached with the 7B: 0.5348 and exp(0.5348) = 1.707.
REACHED = ValidationLoss(
    loss=0.53,
    perplexity=1.698932,
    loss_without_eos=0.5348,
    perplexity_without_eos=1.70710,
    tokens=45_000,
    samples=512,
)
SEVEN_BILLION = 7_566_747_648
LORA_PARAMETERS = 3_645_440  # of the 7B: 14.6 MB


def judged(folder: Path, result: ValidationLoss | None = REACHED, **more: object) -> list[Criterion]:
    facts = {
        "trainable_parameters": LORA_PARAMETERS,
        "model_parameters": SEVEN_BILLION,
        "max_val_loss": 0.6,
        "max_val_perplexity": 2.0,
        "adapter_size_mb": None,
        **more,
    }
    return judge(folder, result, **facts)  # type: ignore[arg-type]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A file of the size of the 7B's adapter: its numbers, and some 20 KB of names."""
    with (tmp_path / WEIGHTS_FILE).open("wb") as stream:
        stream.truncate(4 * LORA_PARAMETERS + 20_000)
    return tmp_path


def test_the_metrics_file_has_the_published_lines_first_and_no_time(tmp_path: Path):
    path = write_val_metrics(tmp_path, 1, REACHED)
    assert path == tmp_path / "val_metrics_epoch_1.txt"
    assert path.read_text() == (
        "Val Loss: 0.534800\n"
        "Val PPL: 1.707100\n"
        "Val Loss with EOS: 0.530000\n"
        "Val PPL with EOS: 1.698932\n"
        "Tokens: 45000\n"
        "Samples: 512\n"
    )


def test_an_adapter_of_the_7b_below_both_thresholds_meets_all_criteria(adapter: Path):
    criteria = judged(adapter)
    assert [(each.name, each.expected, each.found, each.holds) for each in criteria] == [
        ("adapter saved", str(adapter / WEIGHTS_FILE), "yes", True),
        ("adapter size", "14.6 MB", "14.6 MB", True),
        ("val loss", "< 0.6", "0.5348", True),
        ("val perplexity", "< 2", "1.7071", True),
    ]
    assert met(criteria)


@pytest.mark.parametrize(("loss", "perplexity"), [(0.6, 1.7), (0.5, 2.0), (0.7, 2.1)])
def test_a_threshold_itself_does_not_hold(adapter: Path, loss: float, perplexity: float):
    # The figures without EOS decide; those with it would pass.
    result = ValidationLoss(0.1, 1.1, loss, perplexity, tokens=9, samples=3)
    criteria = judged(adapter, result)
    assert [each.holds for each in criteria[2:]] == [loss < 0.6, perplexity < 2.0]
    assert not met(criteria)


def test_of_a_miniature_the_figures_are_shown_but_not_judged(adapter: Path):
    result = ValidationLoss(3.0, 20.0, 3.1, 22.2, tokens=9, samples=3)
    criteria = judged(adapter, result, model_parameters=1_868_832)
    assert [(each.found, each.holds) for each in criteria[2:]] == [("3.1000", None), ("22.2000", None)]
    assert met(criteria)


def test_an_adapter_that_is_missing_or_of_another_size_is_a_miss(tmp_path: Path, adapter: Path):
    assert [each.holds for each in judged(adapter, adapter_size_mb=14.6)[:2]] == [True, True]
    assert [each.holds for each in judged(adapter, adapter_size_mb=16.0)[:2]] == [True, False]
    assert [each.holds for each in judged(adapter, trainable_parameters=LORA_PARAMETERS // 2)[:2]] == [True, False]
    missing = judged(tmp_path / "none", model_parameters=1_000_000)
    assert [(each.found, each.holds) for each in missing[:2]] == [("no", False), ("0.0 MB", False)]
    assert not met(missing)


def test_a_run_that_never_validated_shows_it(adapter: Path):
    assert [(each.found, each.holds) for each in judged(adapter, None)[2:]] == [("not measured", None)] * 2


def test_the_card_tells_what_was_trained_and_how_well():
    facts = CardFacts(
        base_name="llava-hf/llava-v1.6-mistral-7b-hf",
        lora=LoraSettings(),
        train_samples=81_071,
        step=17_904,
        trainable_parameters=LORA_PARAMETERS,
        views=5,
        result=REACHED,
    )
    card = model_card(facts)
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert "base_model: llava-hf/llava-v1.6-mistral-7b-hf\n" in front
    assert "library_name: peft\n" in front
    for words in (
        "3,645,440 (r 8, alpha 32, dropout 0.1)",
        "| training samples | 81,071 |",
        "| optimizer steps | 17,904 |",
        "| validation loss without EOS | 0.5348 nats a token (perplexity 1.707) |",
        "| validation loss with EOS | 0.5300 nats a token (perplexity 1.699) |",
        f"Made with lavic {lavic.__version__}.",
    ):
        assert words in body


def test_a_limit_that_the_user_chose_is_judged_on_a_small_model_too(adapter: Path):
    settings = DistillSettings(max_val_loss=0.5)
    criteria = judge_adapter(settings, adapter, REACHED, nn.Linear(2, 2), trainable_parameters=LORA_PARAMETERS)
    assert [each.holds for each in criteria] == [True, True, False, None]
    assert exit_code(settings, criteria) == 0
    assert exit_code(DistillSettings(require_criteria=True), criteria) == 1
