"""LoRA on the vision side: which modules, what is written, and every tensor in its place when read."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from model.tiny_models import fill_lora, make_base, random_views
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

from lavic.errors import AdapterError
from lavic.model.accelerations import PLAIN
from lavic.model.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LoraSettings,
    attach_vision_lora,
    fingerprint,
    load_vision_adapter,
    lora_parameters,
    merge,
    read_lora_settings,
    save_adapter,
    target_pattern,
    trainable_by_part,
    vision_linears,
)
from lavic.model.visual_tokens import FiveTokenModel


def trained(tokenizer, dtype: torch.dtype = torch.float32, **settings) -> tuple[FiveTokenModel, PeftModel]:
    """A model whose adapter matters; its visual tokens are of the order of 0.1."""
    base = make_base(tokenizer, dtype=dtype, sharp=False)
    wrapped = attach_vision_lora(base.model, LoraSettings(**settings))
    fill_lora(wrapped, size=0.03)
    return FiveTokenModel(base), wrapped


@pytest.fixture
def saved(tokenizer, tmp_path) -> tuple[Path, FiveTokenModel, PeftModel]:
    """An adapter's folder, and the model that it was saved from."""
    model, wrapped = trained(tokenizer, dropout=0.05)
    save_adapter(wrapped, tmp_path / "adapter", base_name="llava-hf/some-model", card="# A card\n")
    return tmp_path / "adapter", model, wrapped


def lora_tensors(model: PeftModel) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.named_parameters() if "lora_" in name}


# -- which modules -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seven_billion() -> tuple[PeftModel, list[str]]:
    """The published model's shape, without memory: its linear layers before LoRA, and it with LoRA."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = MistralConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        sliding_window=None,
    )
    config = LlavaNextConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(config)
    model.requires_grad_(False)
    names = vision_linears(model)
    with torch.device("meta"):
        return attach_vision_lora(model, LoraSettings()), names


def test_the_7b_gets_146_modules_and_3645440_parameters(seven_billion):
    # 24 layers x (4 of 1024->1024, 1024->4096, 4096->1024) + 1024->4096 + 4096->4096, each 8 x (in + out).
    by_hand = 8 * (24 * (4 * 2048 + 2 * 5120) + 5120 + 8192)
    wrapped, names = seven_billion
    assert len(names) == 146
    assert sum(parameter.numel() for parameter in lora_parameters(wrapped).values()) == 3_645_440 == by_hand
    assert len(lora_parameters(wrapped)) == 2 * 146
    assert trainable_by_part(wrapped) == {
        "vision_tower": 8 * 24 * (4 * 2048 + 2 * 5120),
        "multi_modal_projector": 8 * (5120 + 8192),
        "language_model": 0,
        "lm_head": 0,
    }


# How the same modules are called in transformers before 4.52, from 4.52 on, and in 5.
TOWERS = ("vision_tower.vision_model", "model.vision_tower.vision_model", "model.vision_tower")
LANGUAGE = ("language_model.model", "model.language_model", "model.language_model")


@pytest.mark.parametrize("age", [0, 1, 2], ids=["before 4.52", "4.52 on", "5"])
def test_the_pattern_fits_every_age_and_nothing_in_the_language_model(seven_billion, age):
    wrapped, names = seven_billion
    pattern = target_pattern(names)
    assert wrapped.peft_config["default"].target_modules == pattern
    own = [name.replace("model.vision_tower", TOWERS[age]) for name in names]
    if age == 0:
        own = [name.removeprefix("model.") for name in own]
    assert all(re.fullmatch(pattern, name) for name in own)
    others = [f"{LANGUAGE[age]}.layers.3.self_attn.{which}_proj" for which in "qkvo"]
    others += [f"{LANGUAGE[age]}.layers.3.mlp.{which}_proj" for which in ("gate", "up", "down")]
    others += ["lm_head", "language_model.lm_head", "model.embed_tokens", f"{TOWERS[age]}.post_layernorm"]
    others += [f"{TOWERS[age]}.embeddings.patch_embedding", f"{TOWERS[age]}.encoder.layers.0.layer_norm1"]
    assert not [name for name in others if re.fullmatch(pattern, name)]


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_lora_is_kept_in_fp32_on_a_smaller_base(tokenizer, dtype, wanted):
    _, wrapped = trained(tokenizer, dtype)
    assert {parameter.dtype for parameter in lora_tensors(wrapped).values()} == {wanted}


def test_start_values_come_from_the_seed_and_leave_the_model_as_it_was(tokenizer):
    before = FiveTokenModel(make_base(tokenizer)).visual_tokens(random_views(1))
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed + len(found))  # the global state must not matter, nor be changed
        state = torch.get_rng_state()
        base = make_base(tokenizer)
        wrapped = attach_vision_lora(base.model, LoraSettings(), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(torch.cat([tensor.flatten() for tensor in lora_tensors(wrapped).values()]))
        assert torch.equal(FiveTokenModel(base).visual_tokens(random_views(1)), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_step_changes_the_adapter_and_no_frozen_weight(tokenizer):
    model, wrapped = trained(tokenizer)
    before = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    optimizer = torch.optim.AdamW(lora_parameters(wrapped).values(), lr=0.01, weight_decay=0.1)
    model.visual_tokens(random_views(2)).square().mean().backward()
    optimizer.step()
    after = wrapped.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}


# -- what is written -----------------------------------------------------------------------------------------


def test_a_saved_adapter_holds_its_three_files_and_its_tensors(saved):
    folder, _, wrapped = saved
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG_FILE, WEIGHTS_FILE]
    assert (folder / "README.md").read_text() == "# A card\n"
    stored = load_file(folder / WEIGHTS_FILE)
    wanted = {name.replace(".default", ""): tensor for name, tensor in lora_tensors(wrapped).items()}
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)


def test_equal_adapters_are_equal_files(saved, tmp_path):
    folder, _, wrapped = saved
    save_adapter(wrapped, tmp_path / "again", base_name="llava-hf/some-model", card="# A card\n")
    for name in (CONFIG_FILE, WEIGHTS_FILE, "README.md"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert fingerprint(folder) == fingerprint(tmp_path / "again")
    assert re.fullmatch("[0-9a-f]{8}", fingerprint(folder))


def test_the_same_weights_at_another_scale_are_another_adapter(saved, tmp_path):
    folder = tmp_path / "louder"
    shutil.copytree(saved[0], folder)
    config = json.loads((folder / CONFIG_FILE).read_text())
    for changes, same in ({"lora_dropout": 0.3}, True), ({"lora_alpha": 2 * config["lora_alpha"]}, False):
        (folder / CONFIG_FILE).write_text(json.dumps({**config, **changes}))
        assert (fingerprint(folder) == fingerprint(saved[0])) == same


# The keys of an adapter_config.json as PEFT 0.6 wrote it; older versions refuse unknown ones.
KEYS_OF_2023 = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "modules_to_save", "peft_type", "r", "rank_pattern", "revision", "target_modules", "task_type",
}  # fmt: skip


def test_the_configuration_can_be_read_by_older_versions(saved):
    config = json.loads((saved[0] / CONFIG_FILE).read_text())
    assert config.keys() == KEYS_OF_2023
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == ("LORA", 8, 32, 0.05)
    assert isinstance(config["target_modules"], str)
    assert config["base_model_name_or_path"] == "llava-hf/some-model"


def test_the_configuration_names_a_local_model_by_its_last_part(tokenizer, tmp_path):
    (tmp_path / "my-llava").mkdir()
    _, wrapped = trained(tokenizer)
    save_adapter(wrapped, tmp_path / "adapter", base_name=str(tmp_path / "my-llava"), card="")
    text = (tmp_path / "adapter" / CONFIG_FILE).read_text()
    assert json.loads(text)["base_model_name_or_path"] == "my-llava"
    assert str(tmp_path) not in text


# -- what is read --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_stock_peft_loads_it_and_gives_the_same_visual_tokens(saved, tokenizer):
    folder, model, _ = saved
    base = make_base(tokenizer, dtype=torch.float32, sharp=False)
    with torch.no_grad():
        bare = FiveTokenModel(base).visual_tokens(random_views(3))
        PeftModel.from_pretrained(base.model, folder)
        found = FiveTokenModel(base, PLAIN).visual_tokens(random_views(3))
        wanted = model.visual_tokens(random_views(3))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert float((found - bare).abs().max()) > 0.01, "the adapter matters"


LAYOUTS = {
    "before 4.52": ("base_model.model.vision_tower.vision_model.", "base_model.model.multi_modal_projector."),
    "4.52 on": (
        "base_model.model.model.vision_tower.vision_model.",
        "base_model.model.model.multi_modal_projector.",
    ),
    "5": ("base_model.model.model.vision_tower.", "base_model.model.model.multi_modal_projector."),
}


def rewritten(folder: Path, change) -> Path:
    """The folder, its tensors passed through a function of the dictionary."""
    save_file(change(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_each_key_layout_loads_with_every_tensor_equal(saved, tokenizer, layout):
    folder, _, wrapped = saved
    tower, projector = layout

    def to_layout(tensors):
        renamed = {}
        for key, tensor in tensors.items():
            key = key.replace("base_model.model.model.vision_tower.", tower)
            renamed[key.replace("base_model.model.model.multi_modal_projector.", projector)] = tensor
        return renamed

    fresh = make_base(tokenizer, dtype=torch.float32, sharp=False).model
    loaded = lora_tensors(load_vision_adapter(fresh, rewritten(folder, to_layout)))
    wanted = lora_tensors(wrapped)
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def test_a_loaded_adapter_brings_its_own_settings_and_no_dropout(saved, tokenizer):
    folder, model, _ = saved
    base = make_base(tokenizer, dtype=torch.float32, sharp=False)
    loaded = load_vision_adapter(base.model, folder)
    assert read_lora_settings(folder) == LoraSettings(r=8, alpha=32, dropout=0.05)
    assert loaded.peft_config["default"].lora_dropout == 0.05
    assert torch.equal(FiveTokenModel(base).visual_tokens(random_views(2)), model.visual_tokens(random_views(2)))


def drop_one(tensors):
    return {key: tensor for key, tensor in tensors.items() if "layers.2.mlp.fc1.lora_B" not in key}


def add_one(tensors):
    extra = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    return tensors | {extra: torch.zeros(8, 128)}


def twice(tensors):
    key = next(key for key in tensors if "linear_1.lora_A" in key)
    return tensors | {key.replace("base_model.model.model.", "base_model.model."): tensors[key] + 1}


def reshape_one(tensors):
    key = next(key for key in tensors if "linear_1.lora_A" in key)
    return tensors | {key: torch.zeros(8, 95)}


@pytest.mark.parametrize(
    ("change", "counts", "example"),
    [
        (drop_one, (0, 1, 0), "vision_tower.encoder.layers.2.mlp.fc1.lora_B.weight"),
        (add_one, (1, 0, 0), "language_model.layers.0.self_attn.q_proj.lora_A.weight"),
        (twice, (0, 0, 0), "a key that stands twice"),
        (reshape_one, (0, 0, 1), "multi_modal_projector.linear_1.lora_A.weight"),
        (lambda tensors: {"x": torch.zeros(1)}, (1, 52, 0), "x"),
    ],
    ids=["a module left unfilled", "a tensor without a place", "a tensor twice", "another shape", "all foreign"],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_counts(saved, tokenizer, change, counts, example):
    model = make_base(tokenizer, dtype=torch.float32, sharp=False).model
    with pytest.raises(AdapterError) as raised:
        load_vision_adapter(model, rewritten(saved[0], change))
    assert raised.value.sentence == (
        f"{saved[0]}: the adapter is of another model: {counts[0]} tensors have no place, {counts[1]} LoRA "
        f"tensors stay unfilled, {counts[2]} have another shape (for example {example}). "
        "Give the model that the adapter was trained on."
    )


def test_a_pickled_adapter_is_refused(saved, tokenizer):
    folder = saved[0]
    torch.save(load_file(folder / WEIGHTS_FILE), folder / "adapter_model.bin")
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError) as raised:
        load_vision_adapter(make_base(tokenizer).model, folder)
    assert raised.value.sentence == (
        f"{folder}: the weights are pickled (adapter_model.bin). lavic loads safetensors only."
    )


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"not tensors", None], ids=["empty", "zeros", "text", "cut"])
def test_a_damaged_adapter_is_refused(saved, tokenizer, damage):
    path = saved[0] / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1000] if damage is None else damage)
    with pytest.raises(AdapterError, match=r"is damaged .* It looks half-copied: copy it again") as raised:
        load_vision_adapter(make_base(tokenizer).model, saved[0])
    assert "\n" not in raised.value.sentence
    assert raised.value.sentence.startswith(str(path))


def test_a_folder_without_adapter_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(AdapterError) as raised:
            read_lora_settings(folder)
        assert raised.value.sentence == f"{folder}: no adapter here (adapter_config.json is missing)."


@pytest.mark.parametrize(
    "change",
    [{"r": None}, {"r": 0}, {"r": "8"}, {"r": 8.5}, {"lora_alpha": 12.5}, {"lora_dropout": 2}, {"r": float("inf")}],
)
def test_settings_that_are_none_are_refused(saved, change):
    path = saved[0] / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError, match="is not the configuration of an adapter"):
        read_lora_settings(saved[0])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '"x"', "[" * 100_000], ids=range(7))
def test_a_damaged_configuration_is_refused(saved, text):
    (saved[0] / CONFIG_FILE).write_text(text)
    with pytest.raises(AdapterError, match="is not the configuration of an adapter"):
        read_lora_settings(saved[0])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (CONFIG_FILE, "is not the configuration of an adapter (this is a pipe, not a file)"),
        (WEIGHTS_FILE, "cannot be read (this is a pipe, not a file)"),
    ],
)
def test_a_pipe_in_an_adapters_place_does_not_hang(saved, tokenizer, name, problem):
    (saved[0] / name).unlink()
    os.mkfifo(saved[0] / name)
    for use in (fingerprint, lambda folder: load_vision_adapter(make_base(tokenizer).model, folder)):
        with pytest.raises(AdapterError) as raised:
            use(saved[0])
        assert raised.value.sentence == f"{saved[0] / name}: {problem}."


def test_an_adapter_without_weights_has_no_fingerprint(saved):
    (saved[0] / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        fingerprint(saved[0])


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"use_dora": True}, "LORA use_dora"),
        ({"use_rslora": True}, "LORA use_rslora"),
        ({"rank_pattern": {"fc1": 4}}, "LORA rank_pattern"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(saved, change, kind):
    path = saved[0] / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError) as raised:
        read_lora_settings(saved[0])
    assert raised.value.sentence == f"{path}: the adapter is of the kind {kind}. lavic reads plain LoRA."


# -- merging -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_merged_model_gives_the_same_visual_tokens(tokenizer, dtype, tolerance):
    model, wrapped = trained(tokenizer, dtype)
    with torch.no_grad():
        before = model.visual_tokens(random_views(3))
        merged = merge(wrapped)
        after = model.visual_tokens(random_views(3))
    torch.testing.assert_close(after, before, rtol=0, atol=tolerance)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name or "base_layer" in name]


def test_merging_into_bf16_rounds_the_sum_once(tokenizer):
    # W + scale * B A in fp32, then rounded; adding a rounded product would differ in the last bit here and there.
    _, wrapped = trained(tokenizer, torch.bfloat16)
    name = "base_model.model.model.vision_tower.encoder.layers.1.mlp.fc1"
    layer = wrapped.get_submodule(name)
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    wanted = (layer.base_layer.weight.detach().float() + 4.0 * (b @ a)).to(torch.bfloat16)
    merged = merge(wrapped)
    found = merged.get_submodule(name.removeprefix("base_model.model.")).weight
    assert torch.equal(found, wanted)
