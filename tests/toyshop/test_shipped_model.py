"""The checkpoint that comes with the package: stock classes load it, it sees, and it can choose."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

from lavic.model.load import TINY_FOLDER
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop import grammar
from lavic.toyshop.drawing import draw
from lavic.toyshop.kinds import looks
from lavic.toyshop.text_training import choice_accuracy


@pytest.fixture(scope="module")
def stock():
    processor = AutoProcessor.from_pretrained(TINY_FOLDER, backend="pil")
    return LlavaNextForConditionalGeneration.from_pretrained(TINY_FOLDER, dtype=torch.float32), processor


def described_right(stock, count: int, seed: int) -> float:
    """Share of held-out pictures whose greedy description, through the chat template, names three attributes right."""
    model, processor = stock
    rng = random.Random(seed)
    messages = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": DEFAULT_PROMPTS.describe}],
        }
    ]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    right = 0
    for look in looks(rng, count, held_out=True):
        inputs = processor(images=draw(look, rng), text=prompt, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        named = grammar.attributes_named(processor.decode(ids[0, inputs["input_ids"].shape[1] :]))
        right += all(named[name] == getattr(look, name) for name in ("colour", "pattern", "kind"))
    return right / count


def test_the_folder_is_small_and_holds_no_pickle():
    sizes = {path.name: path.stat().st_size for path in TINY_FOLDER.iterdir()}
    assert sum(sizes.values()) < 15e6
    assert not [name for name in sizes if name.endswith((".bin", ".pt", ".pkl", ".pth"))]


def test_stock_classes_describe_new_pictures(stock):
    # 0.9 is promised over many; of 40 fewer than 32 right would be a one-in-a-thousand accident.
    assert described_right(stock, 40, seed=123) >= 0.8


@pytest.mark.slow
def test_nine_of_ten_new_pictures_are_described_right(stock):
    assert described_right(stock, 500, seed=321) >= 0.9


def test_it_chooses_among_ten(stock):
    model, processor = stock
    # 0.95 is promised over many; of 60 fewer than 50 right would be a one-in-a-thousand accident.
    assert choice_accuracy(model, processor.tokenizer, 60, seed=99) >= 5 / 6


@pytest.mark.slow
def test_the_right_one_of_ten_described_candidates_is_named(stock):
    model, processor = stock
    assert choice_accuracy(model, processor.tokenizer, 1000, seed=4711) >= 0.95
