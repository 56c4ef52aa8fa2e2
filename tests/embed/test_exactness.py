"""Stored tokens are the model's, to the bit, with or without an adapter, in every number format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from embed.embed_world import ITEMS, flags, items_of, views_of
from safetensors import safe_open

from lavic.cli.main import run_command_line
from lavic.embed.store import TOKENS_FILE, ItemStore
from lavic.model.adapters import fingerprint, load_vision_adapter, merge
from lavic.model.load import load_base
from lavic.model.visual_tokens import FiveTokenModel


def batches(world: Path) -> list[torch.Tensor]:
    """The pictures as a run with batches of 4 takes them: the last one filled up with nothing."""
    views = torch.stack([views_of(path) for path in items_of(world).values()])
    views = torch.cat([views, torch.zeros(-len(views) % 4, *views.shape[1:], dtype=torch.uint8)])
    return list(views.split(4))


@torch.inference_mode()
def tokens_of(model: FiveTokenModel, world: Path) -> torch.Tensor:
    return torch.cat([model.visual_tokens(batch) for batch in batches(world)])[:ITEMS]


def test_stored_tokens_are_those_of_the_merged_model_to_the_bit(
    shop: Path, adapters: list[Path], finished: Path
) -> None:
    base = load_base("tiny")
    merge(load_vision_adapter(base.model, adapters[0]))
    store = ItemStore(finished)
    assert list(store) == list(items_of(shop))
    assert torch.equal(store.tokens(list(store)), tokens_of(FiveTokenModel(base), shop))


def test_stored_tokens_are_those_of_the_adapter_beside_the_model(
    shop: Path, adapters: list[Path], finished: Path
) -> None:
    base = load_base("tiny")
    plain = tokens_of(FiveTokenModel(base), shop)
    load_vision_adapter(base.model, adapters[0])
    expected = tokens_of(FiveTokenModel(base), shop)
    store = ItemStore(finished)
    torch.testing.assert_close(store.tokens(list(store)), expected, rtol=1e-3, atol=2e-4)
    assert (plain - expected).abs().max() > 0.1, "the adapter changes something"


def test_tokens_of_the_bare_model_are_said_to_be_that(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(flags(shop, tmp_path / "s", adapter="none", store_dtype="fp32", num_workers=2)) == 0
    assert "these are the tokens of the bare model, nothing was distilled into them." in capsys.readouterr().err
    store = ItemStore(tmp_path / "s")
    assert store.about["adapter"] is None
    assert torch.equal(store.tokens(list(store)), tokens_of(FiveTokenModel(load_base("tiny")), shop))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_16_bits_are_the_exact_tokens_rounded_once(
    shop: Path, adapters: list[Path], finished: Path, tmp_path: Path, dtype: str
) -> None:
    assert run_command_line(flags(shop, tmp_path / "s", adapter=adapters[0], store_dtype=dtype)) == 0
    exact, store = ItemStore(finished), ItemStore(tmp_path / "s")
    assert torch.equal(store.tokens(list(exact)), exact.tokens(list(exact)).to(store.dtype))
    with safe_open(tmp_path / "s" / TOKENS_FILE, "pt") as stream:
        assert torch.equal(stream.get_tensor("tokens"), store.tokens(list(store)))


@torch.inference_mode()
def test_what_else_is_in_a_batch_does_not_change_a_bit(shop: Path) -> None:
    """What the fixed places in fixed batches rest on."""
    model, whole = FiveTokenModel(load_base("tiny")), batches(shop)[0]
    expected = model.visual_tokens(whole)
    for slot in range(4):
        alone = torch.zeros_like(whole)
        alone[slot] = whole[slot]
        assert torch.equal(model.visual_tokens(alone)[slot], expected[slot])


def test_model_and_adapter_are_named_without_a_path_of_this_machine(adapters: list[Path], finished: Path) -> None:
    about = ItemStore(finished).about
    assert about["model"]["name"] == "tiny"
    assert about["adapter"] == {"name": "stage1_1", "fingerprint": fingerprint(adapters[0])}
    assert str(adapters[0].parent) not in (finished / "store.json").read_text()
