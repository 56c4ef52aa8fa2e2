"""The teacher's answers are those of stock transformers, and no neighbour changes them."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from lavic.describe.engines import Request, Speech, picture_seed
from lavic.describe.lengths import image_token_count
from lavic.describe.teacher_prompt import teacher_prompt
from lavic.describe.transformers_engine import PerRowDrawing, TransformersEngine
from lavic.errors import ConfigError
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import BaseModel, load_base
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.catalogue import plan_catalogue
from lavic.toyshop.drawing import draw

SIZES = [(80, 80), (120, 60), (30, 130), (77, 41), (300, 299), (40, 200), (64, 64)]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base("tiny")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Seven drawn products of seven shapes."""
    items = plan_catalogue(40, 3)[0][:7]
    return [
        draw(item.look, random.Random(item.picture_seed)).resize(size) for item, size in zip(items, SIZES, strict=True)
    ]


def said(base: BaseModel, pictures: list[Image.Image], batch: int, **speech: float) -> list[str]:
    prompt = teacher_prompt(base, DEFAULT_PROMPTS.describe)
    engine = TransformersEngine(base, prompt, Speech(max_new_tokens=40, **speech))
    requests = [Request(image, picture_seed(1, str(number))) for number, image in enumerate(pictures)]
    return [
        answer.text for at in range(0, len(requests), batch) for answer in engine.describe(requests[at : at + batch])
    ]


def test_greedy_answers_equal_stock_generation(base, pictures):
    processor = AutoProcessor.from_pretrained(base.source, backend="pil")
    content = [{"type": "image"}, {"type": "text", "text": DEFAULT_PROMPTS.describe}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    wanted = []
    for image in pictures:
        inputs = processor(images=image, text=text, return_tensors="pt")
        ids = base.model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        wanted.append(processor.decode(ids, skip_special_tokens=True).strip())
    assert len(set(wanted)) > 3, "the pictures are told apart"
    assert said(base, pictures, 1) == wanted


@pytest.mark.parametrize("speech", [{}, {"temperature": 1.0, "top_p": 0.9}], ids=["greedy", "drawn"])
def test_the_batch_does_not_change_a_text(base, pictures, speech):
    alone = said(base, pictures, 1, **speech)
    assert said(base, pictures, 2, **speech) == alone
    assert said(base, pictures, 7, **speech) == alone


def test_drawing_differs_from_greedy_and_between_seeds(base, pictures):
    engine = TransformersEngine(base, teacher_prompt(base, DEFAULT_PROMPTS.describe), Speech(40, temperature=2.0))
    answers = engine.describe([Request(pictures[0], seed) for seed in range(6)])
    assert len({answer.text for answer in answers}) > 1


def test_the_token_limit_is_told(base, pictures):
    engine = TransformersEngine(base, teacher_prompt(base, DEFAULT_PROMPTS.describe), Speech(5))
    answer = engine.describe([Request(pictures[0], 0)])[0]
    assert (answer.tokens, answer.cut_off) == (5, True)


def test_a_checkpoints_second_end_of_turn_ends_an_answer(base, pictures, monkeypatch):
    engine = TransformersEngine(base, teacher_prompt(base, DEFAULT_PROMPTS.describe), Speech(40))
    whole = engine.describe([Request(pictures[0], 0)])[0].text
    second = base.tokenizer(whole, add_special_tokens=False)["input_ids"][1]
    monkeypatch.setattr(base.model.generation_config, "eos_token_id", [base.tokenizer.eos_token_id, second])
    ended = TransformersEngine(base, teacher_prompt(base, DEFAULT_PROMPTS.describe), Speech(40))
    answer = ended.describe([Request(pictures[0], 0)])[0]
    assert whole.startswith(answer.text)
    assert (answer.tokens, answer.cut_off) == (1, False)


def test_drawn_tokens_follow_the_probabilities():
    # ln 6, ln 3, ln 1 are 0.6, 0.3, 0.1; the two likeliest of top_p 0.85 are 2/3 and 1/3.
    scores = torch.tensor([6.0, 1.0, 3.0]).log().repeat(4000, 1)
    chosen = PerRowDrawing(range(4000), 1.0, 0.85)(torch.zeros(0), scores).argmax(-1)
    shares = torch.bincount(chosen, minlength=3) / 4000
    # Three standard deviations: 3 sqrt(2/9 / 4000) = 0.022
    assert shares[1] == 0
    assert float(shares[0]) == pytest.approx(2 / 3, abs=0.023)


def test_a_small_top_p_leaves_the_likeliest_token():
    scores = torch.tensor([[1.0, 5.0, 2.0]])
    assert int(PerRowDrawing([0], 1.0, 1e-9)(torch.zeros(0), scores).argmax()) == 1


def test_the_number_of_image_tokens_is_known_from_the_size(base):
    teacher = FullTokenModel(base)
    sizes = [*SIZES, (1, 50), (500, 2), (41, 40), (119, 121)]
    counts = [len(teacher.image_tokens([Image.new("RGB", size)])[0]) for size in sizes]
    assert [image_token_count(base.model.config, size) for size in sizes] == counts
    assert len(set(counts)) > 4


def test_a_wording_must_not_spell_the_picture(base):
    with pytest.raises(ConfigError, match="must not hold <image>"):
        teacher_prompt(base, "Look at <image> closely.")
