"""The teacher's way of seeing equals the stock class's, from the picture to the loss."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
import torch
from model.test_views import picture
from model.tiny_models import MEAN, STD, make_base, oracle_sizes, oracle_weights

from lavic.model.full_tokens import FullTokenModel
from lavic.model.losses import target_loss
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.tiny_model import save_checkpoint, tiny_processor

# One picture per kind of grid: 2 x 2, 1 x 2, 3 x 1; 5 x 5 patches a view.
SIZES = [(80, 80), (120, 60), (30, 130)]
TEXTS = [("Mug", "A red mug."), ("", "x"), ("A longer title of a lamp", "Tall, striped and green. " * 4)]


@pytest.fixture(scope="module")
def teacher(tokenizer, tmp_path_factory) -> FullTokenModel:
    base = make_base(tokenizer)
    folder = tmp_path_factory.mktemp("teacher")
    save_checkpoint(folder, base.model, tiny_processor(tokenizer))
    return FullTokenModel(dataclasses.replace(base, source=str(folder)))


def test_image_tokens_of_the_base_view_equal_plain_maths(teacher):
    # Patches of the layer before the last, without [CLS].
    image = picture(80, 80)
    weights, sizes = oracle_weights(teacher.llava), oracle_sizes(teacher.llava)
    pixels = oracles.normalised(torch.from_numpy(oracles.views(image, 40)[0]), MEAN, STD)
    wanted = oracles.project(weights, sizes, oracles.clip_layers(weights, sizes, pixels)[-2][1:])
    # 1e-5: the processor normalises by other float32 operations than PixelNorm.
    scale = float(wanted.abs().max())
    torch.testing.assert_close(teacher.image_tokens([image])[0][:25], wanted, rtol=0, atol=1e-5 * scale)


def test_loss_equals_the_stock_models_own_with_its_own_image_tokens(teacher, builder):
    # The stock class gets pixels, image tokens in the ids, and labels; it reports the mean in float32.
    llava, image_id = teacher.llava, teacher.llava.config.image_token_id
    images = [picture(*size) for size in SIZES]
    tokens = teacher.image_tokens(images)
    counts = [len(found) for found in tokens]
    assert counts == [25 + 10 * 11, 25 + 5 * 11, 25 + 15 * 4], "tiles without padding, a line end per row"
    full = teacher.embed([builder.distill(*texts) for texts in TEXTS], tokens, builder.pad_id)
    nats = target_loss(teacher.hidden_states(full), llava.lm_head, full.batch).nats
    ids, labels = full.batch.input_ids.clone(), full.batch.labels
    for row, count in enumerate(counts):
        first = int(full.batch.placeholder_positions[row])
        ids[row, first : first + count] = image_id
    inputs = teacher.processor(images=images, return_tensors="pt")
    stock = llava(
        input_ids=ids,
        attention_mask=full.batch.attention_mask.long(),
        pixel_values=inputs["pixel_values"].double(),
        image_sizes=inputs["image_sizes"],
        labels=labels,
    )
    assert float(nats.mean()) == pytest.approx(float(stock.loss), rel=1e-6)


def test_teacher_and_student_are_asked_for_the_same_target_tokens(teacher, builder):
    sequences = [builder.distill(*texts) for texts in TEXTS]
    full = teacher.embed(sequences, teacher.image_tokens([picture(*size) for size in SIZES]), builder.pad_id)
    student = builder.collate(sequences)
    for row in range(3):
        mine, theirs = full.batch.labels[row], student.labels[row]
        assert mine[mine >= 0].tolist() == theirs[theirs >= 0].tolist()
    assert full.batch.is_eos.sum(1).tolist() == [1, 1, 1]


def test_padding_does_not_change_a_row(teacher, builder):
    sequences = [builder.distill(*texts) for texts in TEXTS]
    tokens = teacher.image_tokens([picture(*size) for size in SIZES])
    together = teacher.hidden_states(teacher.embed(sequences, tokens, builder.pad_id))
    for row in range(3):
        alone = teacher.hidden_states(teacher.embed(sequences[row : row + 1], tokens[row : row + 1], builder.pad_id))
        found = together[row, : alone.shape[1]]
        torch.testing.assert_close(found, alone[0], rtol=1e-10, atol=1e-12)


def test_left_padding_puts_all_ends_at_one_column(teacher, builder):
    sequences = [builder.distill(title) for title, _ in TEXTS]
    tokens = teacher.image_tokens([picture(*size) for size in SIZES])
    right = teacher.embed(sequences, tokens, builder.pad_id)
    left = teacher.embed(sequences, tokens, builder.pad_id, side="left")
    for row in range(3):
        length = int(right.batch.attention_mask[row].sum())
        assert left.batch.attention_mask[row].tolist() == [False] * (left.embeds.shape[1] - length) + [True] * length
        assert torch.equal(left.embeds[row, -length:], right.embeds[row, :length])
    with pytest.raises(ValueError, match="padding must be on the right"):
        teacher.hidden_states(left)


def test_llava_15_teaches_with_all_patches_of_its_one_view(tokenizer, tmp_path):
    base = make_base(tokenizer, family="llava")
    processor = tiny_processor(tokenizer)
    save_checkpoint(tmp_path, base.model, processor)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, '
        '"crop_size": {"height": 40, "width": 40}}'
    )
    teacher = FullTokenModel(dataclasses.replace(base, source=str(tmp_path)))
    builder = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 1)
    tokens = teacher.image_tokens([picture(80, 80), picture(50, 90)])
    assert [tuple(found.shape) for found in tokens] == [(25, 128)] * 2
    full = teacher.embed([builder.distill("a", "b"), builder.distill("b", "c")], tokens, builder.pad_id)
    loss = target_loss(teacher.hidden_states(full), base.model.lm_head, full.batch)
    assert bool(torch.isfinite(loss.nats).all())
