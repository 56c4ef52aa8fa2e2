"""Checkpoints as the hub has them load whole; everything else is one sentence, and quickly."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from model.hub_checkpoints import (
    IMAGE_ID,
    PAD_ID,
    hub_config,
    new_name,
    update_to_2025,
    write_hub_checkpoint,
    write_weights,
)
from model.tiny_models import random_views
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, LlamaConfig, LlavaNextForConditionalGeneration, SiglipVisionConfig

from lavic.errors import ModelError
from lavic.model.adapters import LoraSettings, attach_vision_lora
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import BaseModel, load_base, looks_local, public_name, resolve_source
from lavic.model.losses import target_loss
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tiny_model import build_tiny_model, save_checkpoint, tiny_processor


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The small sister of llava-v1.6-mistral-7b-hf."""
    folder = tmp_path_factory.mktemp("hub") / "llava-v1.6-mistral-7b-hf"
    write_hub_checkpoint(folder)
    return folder


@pytest.fixture
def checkpoint(published, tmp_path) -> Path:
    """A copy of it to be spoilt."""
    return Path(shutil.copytree(published, tmp_path / "checkpoint"))


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refusal(source: Path | str) -> str:
    """The sentence that loading ends with."""
    with pytest.raises(ModelError) as raised:
        load_base(str(source))
    assert "\n" not in raised.value.sentence
    assert raised.value.exit_code == 2
    return raised.value.sentence


# -- what loads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava_next", "llava"])
def test_every_published_tensor_gets_its_place(tmp_path, family):
    tensors = write_hub_checkpoint(tmp_path / "model", family)
    state = load_base(str(tmp_path / "model")).model.state_dict()
    assert state.keys() == {new_name(name) for name in tensors}
    for name, tensor in tensors.items():
        assert torch.equal(state[new_name(name)], tensor.float()), name


@pytest.mark.parametrize("update", [lambda folder: None, update_to_2025], ids=["2024", "2025"])
def test_published_settings_reach_the_model(checkpoint, update, capfd):
    update(checkpoint)
    base = load_base(str(checkpoint))
    text = base.model.config.text_config
    assert isinstance(base.model, LlavaNextForConditionalGeneration)
    assert text.rope_parameters["rope_theta"] == 1_000_000.0, "not the default of 10,000"
    assert text.sliding_window is None, "not the default of 4,096"
    assert base.model.config.vision_feature_layer == -2
    assert base.tokenizer.convert_tokens_to_ids("<image>") == base.model.config.image_token_id == IMAGE_ID
    assert (base.tokenizer.bos_token_id, base.tokenizer.eos_token_id, base.tokenizer.pad_token_id) == (1, 2, PAD_ID)
    assert base.tokenizer("red", add_special_tokens=False).tokens() == ["▁red"]
    assert (base.view_size, base.family.views) == (28, 5)
    assert base.pixel_mean == (0.48145466, 0.4578275, 0.40821073)
    assert base.pixel_std == (0.26862954, 0.26130258, 0.27577711)
    assert base.name == "checkpoint"
    assert base.source == str(checkpoint)
    assert capfd.readouterr() == ("", ""), "the libraries' remarks and bars stay away"


def test_the_model_is_frozen_in_evaluation_mode_and_in_the_type_asked_for(published):
    for dtype in (torch.float32, torch.bfloat16):
        model = load_base(str(published), dtype=dtype).model
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("family", "views", "modules"), [("llava_next", 5, 20), ("llava", 1, 20)])
def test_a_loaded_checkpoint_distils(tmp_path, family, views, modules):
    write_hub_checkpoint(tmp_path, family)
    base = load_base(str(tmp_path))
    wrapped = attach_vision_lora(base.model, LoraSettings())
    model, builder = FiveTokenModel(base), SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views)
    sequences = [builder.distill("Red Mug", "red"), builder.distill("A <image> title", "a red mug </s>")]
    batch = builder.collate(sequences)
    pixels = random_views(2, views)[..., :28, :28]
    loss = target_loss(model.hidden_states(batch, model.visual_tokens(pixels)), model.lm_head, batch)
    loss.total.backward()
    assert batch.placeholder_positions.shape == (2, views)
    assert bool(torch.isfinite(loss.nats).all())
    gradients = [parameter.grad for name, parameter in wrapped.named_parameters() if "lora_B" in name]
    assert len(gradients) == modules
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_the_published_teacher_sees_all_its_image_tokens(published):
    # 28 x 28 in patches of 14: 2 x 2 a view. A 56 x 56 picture takes the 2 x 2 grid: 4 + 4 x (4 + 1 line end).
    teacher = FullTokenModel(load_base(str(published)))
    tokens = teacher.image_tokens([Image.new("RGB", (56, 56), "red"), Image.new("RGB", (28, 56), "red")])
    assert [tuple(found.shape) for found in tokens] == [(24, 48), (16, 48)]


def test_a_checkpoint_that_lavic_wrote_loads(tmp_path, tokenizer):
    model = build_tiny_model(tokenizer)
    save_checkpoint(tmp_path, model, tiny_processor(tokenizer))
    base = load_base(str(tmp_path))
    state = base.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert base.tokenizer("a red mug").input_ids == tokenizer("a red mug").input_ids
    assert (base.view_size, base.tokenizer.pad_token_id) == (40, tokenizer.pad_token_id)


def test_buffers_that_old_files_carry_are_no_error(checkpoint):
    path = checkpoint / "model-00002-of-00002.safetensors"
    ids = {"vision_tower.vision_model.embeddings.position_ids": torch.arange(5)[None]}
    speeds = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    save_file(load_file(path) | ids | speeds, path)
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys([*ids, *speeds], path.name)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert isinstance(load_base(str(checkpoint)), BaseModel)


# -- what does not fit: counted ------------------------------------------------------------------------------

FIT = "the checkpoint does not fit its config.json: {} tensors missing, {} without a place, {} of another shape"
AGAIN = "It looks incomplete or of another model: download it again."


def write_changed(folder: Path, change) -> None:
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    write_weights(folder, change(tensors))


@pytest.mark.parametrize(
    ("change", "counts", "example"),
    [
        (
            lambda tensors: {name: tensors[name] for name in tensors if ".layers.1.mlp.fc1." not in name},
            (2, 0, 0),
            "model.vision_tower.encoder.layers.1.mlp.fc1.bias",
        ),
        (
            lambda tensors: tensors | {"model.mm_projector.0.weight": torch.zeros(2)},
            (0, 1, 0),
            "model.mm_projector.0.weight",
        ),
        (
            lambda tensors: tensors | {"multi_modal_projector.linear_2.bias": torch.zeros(7)},
            (0, 0, 1),
            "model.multi_modal_projector.linear_2.bias",
        ),
        (
            lambda tensors: {name: tensors[name] for name in tensors if not name.startswith("language_model.")},
            (21, 0, 0),
            "lm_head.weight",
        ),
    ],
    ids=["two missing", "one too many", "another shape", "no language model"],
)
def test_tensors_that_do_not_fit_are_counted(checkpoint, change, counts, example):
    write_changed(checkpoint, change)
    assert refusal(checkpoint) == f"{checkpoint}: {FIT.format(*counts)} (for example {example}). {AGAIN}"


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_a_configuration_of_a_larger_model_takes_no_memory(checkpoint, part, monkeypatch):
    # Without its sizes the configuration means the default ones, 300 million or 7 billion parameters.
    edit_json(checkpoint / "config.json", **{part: None})
    taken = []
    empty_like = torch.empty_like

    def recording(tensor, *args, **kwargs):
        made = empty_like(tensor, *args, **kwargs)
        taken.append(0 if made.is_meta else made.numel())
        return made

    monkeypatch.setattr(torch, "empty_like", recording)
    assert "tensors missing" in refusal(checkpoint)
    assert sum(taken) < 1_000_000


# -- what is no checkpoint -----------------------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    assert refusal(tmp_path / "nowhere") == (
        f"{tmp_path}/nowhere: there is no such folder. Give a folder with a LLaVA-NeXT checkpoint, "
        "a hub name such as llava-hf/llava-v1.6-mistral-7b-hf, or `tiny`."
    )


def test_a_mistyped_name_beside_other_checkpoints_is_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert refusal("weights/llava").startswith("weights/llava: there is no such folder. ")
    assert not looks_local("llava-hf/llava-v1.6-mistral-7b-hf")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    wanted = f"{tmp_path}/model.safetensors: a model is a folder, this is a file."
    assert refusal(tmp_path / "model.safetensors") == wanted


def test_an_empty_folder_is_no_model(tmp_path):
    assert refusal(tmp_path) == (f"{tmp_path}: the folder holds no config.json. Copy the whole checkpoint folder.")


@pytest.mark.parametrize("config", [BertConfig(), LlamaConfig()], ids=["bert", "llama"])
def test_a_checkpoint_of_another_class_is_named(tmp_path, config):
    config.save_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert refusal(tmp_path) == (
        f"{tmp_path}: this is a checkpoint of the type '{config.model_type}'. "
        "lavic needs a LLaVA-NeXT (llava_next) or LLaVA-1.5 (llava) checkpoint."
    )


def test_a_tower_without_cls_is_refused(checkpoint):
    edit_json(checkpoint / "config.json", vision_config=SiglipVisionConfig().to_dict())
    assert refusal(checkpoint) == (
        f"{checkpoint}: its vision tower is of the type 'siglip_vision_model', not CLIP. "
        "lavic needs a LLaVA checkpoint with a CLIP tower."
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_refused_unread(checkpoint, name):
    for path in checkpoint.glob("*.safetensors*"):
        path.unlink()
    (checkpoint / name).write_bytes(b"\x80\x04cos\nsystem\n")
    assert refusal(checkpoint) == (
        f"{checkpoint}: the weights are pickled ({name}). lavic loads safetensors only: convert the checkpoint, "
        "or download its safetensors files."
    )


def test_a_folder_without_weights_is_refused(checkpoint):
    for path in checkpoint.glob("*.safetensors*"):
        path.unlink()
    assert refusal(checkpoint).startswith(f"{checkpoint}: the folder holds no *.safetensors. ")


@pytest.mark.parametrize("keep", [0, 4, 300, -1], ids=["empty", "header cut", "header cut later", "last byte"])
def test_truncated_weights_are_refused(checkpoint, keep):
    path = checkpoint / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    sentence = refusal(checkpoint)
    assert sentence.startswith(f"{path}: the weights are damaged (")
    assert sentence.endswith("It looks half-copied: copy it again.")


def test_a_missing_part_of_the_weights_is_refused(checkpoint):
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    sentence = refusal(checkpoint)
    assert sentence.startswith(f"{checkpoint}: the checkpoint cannot be loaded (")
    assert "model-00002-of-00002.safetensors" in sentence


@pytest.mark.parametrize("text", ["", "{", "\ufeff", "[" * 100_000], ids=["empty", "cut", "mark only", "deep"])
def test_a_damaged_configuration_is_refused(checkpoint, text):
    (checkpoint / "config.json").write_text(text, encoding="utf-8")
    sentence = refusal(checkpoint)
    assert sentence.startswith(f"{checkpoint}/config.json: cannot be read (")
    assert sentence.endswith("It looks half-copied: copy it again.")


@pytest.mark.parametrize("text", ["[]", "null", "7"])
def test_a_configuration_that_is_no_object_is_refused(checkpoint, text):
    (checkpoint / "config.json").write_text(text)
    assert refusal(checkpoint) == (
        f"{checkpoint}/config.json: cannot be read (not a JSON object). It looks half-copied: copy it again."
    )


@pytest.mark.parametrize("text", ["{}", '{"model_typ": "llava_next"}'])
def test_a_configuration_without_a_type_is_refused(checkpoint, text):
    (checkpoint / "config.json").write_text(text)
    assert refusal(checkpoint).startswith(f"{checkpoint}: this is a checkpoint of the type 'None'. ")


@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": None},
        {"vision_config": "clip"},
        {"text_config": []},
        {"text_config": {"model_type": "no_such_model"}},
        {"text_config": hub_config("llava_next")["text_config"] | {"num_attention_heads": 0}},
        {"text_config": hub_config("llava_next")["text_config"] | {"hidden_size": "many"}},
        {"projector_hidden_act": "no such function"},
        {"model_type": ["llava_next"]},
    ],
    ids=lambda change: str(change)[:50],
)
def test_wrong_values_in_the_configuration_are_refused(checkpoint, change):
    edit_json(checkpoint / "config.json", **change)
    sentence = refusal(checkpoint)
    assert sentence.startswith(str(checkpoint))
    assert len(sentence) < 600, "a library's list of all models is cut"


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json",
        "model.safetensors.index.json",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
)
def test_other_damaged_files_are_named(checkpoint, name):
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:50])
    assert refusal(checkpoint).startswith(f"{path}: cannot be read (")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model-00002-of-00002.safetensors"])
def test_a_pipe_in_a_files_place_does_not_hang(checkpoint, name):
    (checkpoint / name).unlink(missing_ok=True)
    os.mkfifo(checkpoint / name)
    sentence = refusal(checkpoint)
    assert sentence.startswith(f"{checkpoint / name}: ")
    assert "this is a pipe, not a file" in sentence


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_missing_files_are_named(checkpoint, name):
    (checkpoint / name).unlink()
    (checkpoint / "processor_config.json").unlink()
    assert refusal(checkpoint) == (f"{checkpoint}: the folder holds no {name}. Copy the whole checkpoint folder.")


def test_a_missing_index_of_the_weights_is_refused(checkpoint):
    (checkpoint / "model.safetensors.index.json").unlink()
    assert refusal(checkpoint).startswith(f"{checkpoint}: the checkpoint cannot be loaded (")


def test_code_from_a_checkpoint_is_never_run(checkpoint):
    mark = checkpoint / "was_run"
    (checkpoint / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    classes = {"AutoConfig": "modeling_evil.Evil", "AutoModelForImageTextToText": "modeling_evil.Evil"}
    edit_json(checkpoint / "config.json", auto_map=classes)
    edit_json(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_evil.Evil", None]})
    edit_json(checkpoint / "preprocessor_config.json", auto_map={"AutoImageProcessor": "modeling_evil.Evil"})
    assert load_base(str(checkpoint)).model is not None
    assert not mark.exists()


def test_a_hub_name_without_the_hub_says_so():
    sentence = refusal("no-such-user/no-such-model")
    assert sentence.startswith("no-such-user/no-such-model: the checkpoint cannot be loaded (")
    assert sentence.endswith(
        "Give a folder or a hub name of a LLaVA-NeXT checkpoint. The hub is switched off (HF_HUB_OFFLINE)."
    )


# -- names ---------------------------------------------------------------------------------------------------


def test_names_in_results_hold_no_local_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert public_name("llava-hf/llava-v1.6-mistral-7b-hf") == "llava-hf/llava-v1.6-mistral-7b-hf"
    assert public_name("tiny") == "tiny"
    assert public_name(str(tmp_path / "mine")) == "mine"
    assert public_name("./mine/") == "mine"
    assert public_name("~/mine") == "mine"
    assert public_name("/no/longer/there") == "there"
    assert resolve_source("~/mine") == str(tmp_path / "mine")
    assert Path(resolve_source("tiny")).name == "tiny-llava-next"
