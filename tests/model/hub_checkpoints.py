"""Tiny checkpoints in the form in which the hub's were published: file names, keys, settings.

Written by hand from the published files of ``llava-hf/llava-v1.6-mistral-7b-hf`` and
``llava-hf/llava-1.5-7b-hf``, without ``save_pretrained``: only the sizes differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_BYTES = [f"<0x{value:02X}>" for value in range(256)]
_LETTERS = ["▁", "\n", *map(chr, range(33, 127))]
_MERGES = ["▁ r", "▁ T", "e d", "▁r ed", "a n", "t i"]
VOCABULARY = ["<unk>", "<s>", "</s>", *_BYTES, *[merge.replace(" ", "") for merge in _MERGES], *_LETTERS]
#: As 32000 and 32001 in the published ones: behind the vocabulary; the embedding is padded to more rows.
IMAGE_ID, PAD_ID = len(VOCABULARY), len(VOCABULARY) + 1
ROWS = len(VOCABULARY) + 64

SIZE, PATCH, WIDTH, DEPTH = 28, 14, 32, 3
HIDDEN, LAYERS = 48, 2


def _pretty(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def hub_config(family: str) -> dict[str, Any]:
    """config.json with the keys of the published one; sizes are spelled out where it relies on defaults."""
    mistral = {
        "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
        "architectures": ["MistralForCausalLM"],
        "intermediate_size": 64,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "vocab_size": ROWS,
    }
    llama = {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "intermediate_size": 64,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": ROWS,
    }
    next_only = {
        "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
        "use_image_newline_parameter": True,
    }
    is_next = family == "llava_next"
    return {
        "architectures": ["LlavaNextForConditionalGeneration" if is_next else "LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": IMAGE_ID,
        "model_type": family,
        "projector_hidden_act": "gelu",
        "text_config": (mistral if is_next else llama)
        | {"hidden_size": HIDDEN, "num_attention_heads": 4, "num_hidden_layers": LAYERS},
        "torch_dtype": "float16",
        "transformers_version": "4.39.0.dev0" if is_next else "4.36.0.dev0",
        **(next_only if is_next else {"pad_token_id": PAD_ID}),
        "vision_config": {
            "hidden_size": WIDTH,
            "image_size": SIZE,
            "intermediate_size": 64,
            "model_type": "clip_vision_model",
            "num_attention_heads": 4,
            "num_hidden_layers": DEPTH,
            "patch_size": PATCH,
            "projection_dim": 24,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": ROWS,
    }


def hub_tensors(family: str) -> dict[str, Tensor]:
    """All weights under the published names, in fp16, each with values of its own."""
    shapes: dict[str, tuple[int, ...]] = {}
    tower = "vision_tower.vision_model"
    shapes[f"{tower}.embeddings.class_embedding"] = (WIDTH,)
    shapes[f"{tower}.embeddings.patch_embedding.weight"] = (WIDTH, 3, PATCH, PATCH)
    shapes[f"{tower}.embeddings.position_embedding.weight"] = (1 + (SIZE // PATCH) ** 2, WIDTH)

    def put(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    for norm in ("pre_layrnorm", "post_layernorm"):
        put(f"{tower}.{norm}", WIDTH)
    for layer in range(DEPTH):
        name = f"{tower}.encoder.layers.{layer}"
        for which in ("q_proj", "k_proj", "v_proj", "out_proj"):
            put(f"{name}.self_attn.{which}", WIDTH, WIDTH)
        put(f"{name}.layer_norm1", WIDTH)
        put(f"{name}.layer_norm2", WIDTH)
        put(f"{name}.mlp.fc1", 64, WIDTH)
        put(f"{name}.mlp.fc2", WIDTH, 64)
    put("multi_modal_projector.linear_1", HIDDEN, WIDTH)
    put("multi_modal_projector.linear_2", HIDDEN, HIDDEN)
    if family == "llava_next":
        shapes["image_newline"] = (HIDDEN,)
    language, keys = "language_model.model", HIDDEN // 2 if family == "llava_next" else HIDDEN
    shapes[f"{language}.embed_tokens.weight"] = (ROWS, HIDDEN)
    for layer in range(LAYERS):
        name = f"{language}.layers.{layer}"
        for which, rows in (("q", HIDDEN), ("k", keys), ("v", keys), ("o", HIDDEN)):
            shapes[f"{name}.self_attn.{which}_proj.weight"] = (rows, HIDDEN)
        shapes[f"{name}.mlp.gate_proj.weight"] = shapes[f"{name}.mlp.up_proj.weight"] = (64, HIDDEN)
        shapes[f"{name}.mlp.down_proj.weight"] = (HIDDEN, 64)
        shapes[f"{name}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{name}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes[f"{language}.norm.weight"] = (HIDDEN,)
    shapes["language_model.lm_head.weight"] = (ROWS, HIDDEN)
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(shape, generator=generator) * 0.2).half() for name, shape in shapes.items()}


def new_name(name: str) -> str:
    """What transformers 5 calls the tensor."""
    for old, new in (
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return {"image_newline": "model.image_newline"}[name]


def _added(content: str) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **flags}


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json of the Llama kind with <image> and <pad> added, and its two companions."""
    added = {0: "<unk>", 1: "<s>", 2: "</s>", IMAGE_ID: "<image>", PAD_ID: "<pad>"}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    _pretty(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": number, **_added(content)} for number, content in added.items()],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                ],
            },
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": single,
                "pair": single + pair,
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": "<unk>",
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": {token: number for number, token in enumerate(VOCABULARY)},
                "merges": _MERGES,
            },
        },
    )
    _pretty(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {str(number): _added(content) for number, content in added.items()},
            "additional_special_tokens": [],
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": True,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": "<pad>",
            "padding_side": "left",
            "processor_class": "LlavaNextProcessor",
            "sp_model_kwargs": {},
            "spaces_between_special_tokens": False,
            "tokenizer_class": "LlamaTokenizer",
            "trust_remote_code": False,
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _pretty(folder / "special_tokens_map.json", {name: _plain(content) for name, content in special.items()})
    _pretty(folder / "added_tokens.json", {"<image>": IMAGE_ID, "<pad>": PAD_ID})


def _plain(content: str) -> dict[str, Any]:
    return {key: value for key, value in _added(content).items() if key != "special"}


def write_processor(folder: Path, family: str) -> None:
    """preprocessor_config.json and processor_config.json."""
    is_next = family == "llava_next"
    common = {
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "LlavaNextImageProcessor" if is_next else "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "processor_class": "LlavaNextProcessor" if is_next else "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": SIZE},
    }
    if is_next:
        common |= {
            "aspect_ratio_setting": "anyres",
            "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
        }
    _pretty(folder / "preprocessor_config.json", common)
    _pretty(
        folder / "processor_config.json",
        {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "processor_class": common["processor_class"],
            "vision_feature_select_strategy": "default",
        },
    )


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Two files and their index."""
    names = sorted(tensors)
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    where = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    _pretty(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def update_to_2025(folder: Path) -> None:
    """What later commits on the hub changed: the image token is named, a chat template came."""
    path = folder / "tokenizer_config.json"
    named = {"extra_special_tokens": {"image_token": "<image>"}, "image_token": "<image>"}
    _pretty(path, json.loads(path.read_text(encoding="utf-8")) | named)
    _pretty(folder / "chat_template.json", {"chat_template": "{% for message in messages %}x{% endfor %}"})


def write_hub_checkpoint(folder: Path, family: str = "llava_next") -> dict[str, Tensor]:
    """The whole folder; the tensors that were written, by their published names."""
    folder.mkdir(parents=True, exist_ok=True)
    _pretty(folder / "config.json", hub_config(family))
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2}
    _pretty(folder / "generation_config.json", generation | {"transformers_version": "4.39.0.dev0"})
    write_tokenizer(folder)
    write_processor(folder, family)
    tensors = hub_tensors(family)
    write_weights(folder, tensors)
    return tensors
