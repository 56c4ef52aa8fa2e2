"""Losses and gradients: what trains equals slow, plain maths, whatever makes it fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import oracles
import pytest
import torch
from model.tiny_models import MEAN, STD, fill_lora, make_base, oracle_sizes, oracle_weights, random_views
from peft import PeftModel
from torch import Tensor, nn

from lavic.model.accelerations import PLAIN, Accelerations
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters
from lavic.model.losses import target_loss, token_nats
from lavic.model.prefix_cache import PrefixCache, shared_length
from lavic.model.sequences import IGNORE_INDEX, Sequence, SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel

# Seven samples whose titles and descriptions are empty, short, long, and anything in between.
TEXTS = [
    ("Blue Ceramic Mug, 11 oz", "A round blue mug with a white handle."),
    ("", "Red."),
    ("No Title", "A tall lamp with a striped shade, photographed on grey; its foot is made of brass. " * 3),
    ("x", ""),
    ("Crème brûlée torch 🔥 für Küche – " * 4, "A small torch: black grip, silver nozzle."),
    ("Handmade scarf", "wool"),
    ("A title of one line that is much longer than what is said about the picture, 2 pack", "Beige"),
]


@dataclass(frozen=True, repr=False)
class Student:
    """One model with LoRA; what the fast paths and the oracle say of the samples."""

    model: FiveTokenModel
    wrapped: PeftModel
    sequences: list[Sequence]
    views: Tensor


@pytest.fixture(scope="module")
def student(tokenizer, builder: SequenceBuilder) -> Student:
    base = make_base(tokenizer)
    wrapped = attach_vision_lora(base.model, LoraSettings())
    fill_lora(wrapped)
    sequences = [builder.distill(title, description) for title, description in TEXTS]
    return Student(FiveTokenModel(base), wrapped, sequences, random_views(len(TEXTS)))


@pytest.fixture(scope="module")
def plain(student: Student) -> list[tuple[list[float], dict[str, Tensor]]]:
    """By sample: the loss of each target token, and the gradients of their sum."""
    sizes, results = oracle_sizes(student.model.llava), []
    for sequence, views in zip(student.sequences, student.views, strict=True):
        weights = oracle_weights(student.model.llava)
        seen = oracles.visual_tokens(weights, sizes, oracles.normalised(views, MEAN, STD))
        ids, placeholders = list(sequence.input_ids), list(sequence.placeholders)
        nats = oracles.target_nats(weights, sizes, ids, placeholders, sequence.prompt_length, seen)
        torch.stack(nats).sum().backward()
        gradients = {name: tensor.grad for name, tensor in weights.items() if tensor.grad is not None}
        results.append(([float(value.detach()) for value in nats], gradients))
    every = [nat for nats, _ in results for nat in nats]
    assert len({round(nat, 3) for nat in every}) > 0.9 * len(every), "a shifted label would show"
    return results


def run_fast(
    student: Student,
    builder: SequenceBuilder,
    rows: list[int],
    *,
    side: str = "right",
    chunk: int = 1024,
    accelerations: Accelerations = PLAIN,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Nats and rows of the target tokens, and the gradients of the sum, from the code under test."""
    model = student.model
    model.accelerate(accelerations)
    sequences = [student.sequences[row] for row in rows]
    prefix = None
    if accelerations.prefix_cache:
        length = shared_length(student.sequences)
        assert length > 40, "the instruction is shared"
        language_model = model.llava.model.language_model
        prefix = PrefixCache(language_model, model.llava.get_input_embeddings(), sequences[0].input_ids[:length])
    student.wrapped.zero_grad(set_to_none=True)
    batch = builder.collate(sequences, side=side)
    hidden = model.hidden_states(batch, model.visual_tokens(student.views[rows]), prefix)
    loss = target_loss(hidden, model.lm_head, batch, chunk=chunk, everywhere=not accelerations.target_logits)
    loss.total.backward()
    parameters = lora_parameters(student.wrapped)
    gradients = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    return loss.nats.detach(), loss.rows, gradients


def assert_equal_gradients(found: dict[str, Tensor], wanted: list[dict[str, Tensor]]) -> None:
    """Each tensor to 1e-10 of its own largest entry."""
    assert len(found) == 2 * 26  # 4 layers of 6 linear layers, and the projector's 2
    for name, gradient in found.items():
        plain_name = name.removeprefix("base_model.model.")
        total = sum(gradients[plain_name] for gradients in wanted)
        scale = float(total.abs().max())
        assert scale > 0, f"{name} gets a gradient"
        torch.testing.assert_close(gradient, total, rtol=0, atol=1e-10 * scale, msg=name)


ROWS = pytest.mark.parametrize("rows", [[4], [3, 2], [6, 5, 4, 3, 2, 1, 0]], ids=["batch1", "batch2", "batch7"])
ALL = Accelerations(activation_checkpointing=True)
SWITCHES = [field.name for field in fields(Accelerations) if field.name != "compile"]


def assert_plain_maths(student, builder, plain, rows, **how):
    nats, owners, gradients = run_fast(student, builder, rows, **how)
    wanted = [nat for row in rows for nat in plain[row][0]]
    torch.testing.assert_close(nats, torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=0)
    assert owners.tolist() == [at for at, row in enumerate(rows) for _ in plain[row][0]]
    assert_equal_gradients(gradients, [plain[row][1] for row in rows])


@ROWS
@pytest.mark.parametrize("side", ["left", "right"])
def test_without_short_cuts_loss_and_gradients_equal_plain_maths(student, builder, plain, rows, side):
    assert_plain_maths(student, builder, plain, rows, side=side)


@ROWS
@pytest.mark.parametrize("switch", SWITCHES)
def test_each_short_cut_alone_equals_plain_maths(student, builder, plain, rows, switch):
    assert_plain_maths(student, builder, plain, rows, accelerations=replace(PLAIN, **{switch: True}))


@ROWS
@pytest.mark.parametrize("switch", [None, *SWITCHES])
def test_all_short_cuts_and_all_but_one_equal_plain_maths(student, builder, plain, rows, switch):
    fewer = ALL if switch is None else replace(ALL, **{switch: False})
    assert_plain_maths(student, builder, plain, rows, accelerations=fewer)


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_of_any_size_equal_plain_maths(student, builder, plain, chunk):
    assert_plain_maths(student, builder, plain, [3, 2], chunk=chunk, accelerations=ALL)


@ROWS
def test_cls_only_equals_plain_maths_with_padding_on_the_left(student, builder, plain, rows):
    short_cuts = Accelerations(prefix_cache=False)  # it knows no padding in front
    assert_plain_maths(student, builder, plain, rows, side="left", accelerations=short_cuts)


def test_micro_batches_add_up_to_the_whole_batch(student, builder, plain):
    # 7 samples as micro-batches of 3, 3 and 1, their nats summed, against all of them at once.
    whole_nats, _, whole = run_fast(student, builder, list(range(7)), accelerations=ALL)
    parts = [run_fast(student, builder, rows, accelerations=ALL) for rows in ([0, 1, 2], [3, 4, 5], [6])]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), whole_nats, rtol=1e-10, atol=0)
    for name, gradient in whole.items():
        total = sum(part[2][name] for part in parts)
        torch.testing.assert_close(total, gradient, rtol=0, atol=1e-10 * float(gradient.abs().max()))


def test_loss_equals_the_stock_models_own_labels_loss(student, builder):
    # Stock class, its own embedding table, its own shift by one; it reports the mean, in float32.
    model, llava = student.model, student.model.llava
    batch = builder.collate(student.sequences)
    tokens = model.visual_tokens(student.views).detach()
    ids = batch.input_ids.clone()
    for row, positions in enumerate(batch.placeholder_positions):
        ids[row, positions] = 0
    embeds = llava.model.language_model.embed_tokens(ids)
    for row, positions in enumerate(batch.placeholder_positions):
        embeds[row, positions] = tokens[row]
    stock = llava(inputs_embeds=embeds, attention_mask=batch.attention_mask.long(), labels=batch.labels)
    ours = target_loss(model.hidden_states(batch, tokens), model.lm_head, batch)
    assert float(ours.nats.mean().detach()) == pytest.approx(float(stock.loss), rel=1e-6)
    assert len(ours.nats) == int((batch.labels != IGNORE_INDEX).sum())


# -- by hand -------------------------------------------------------------------------------------------------


def head_of(logits: list[list[float]]) -> nn.Module:
    """A head that answers state i (a one-hot vector) with row i of the logits."""
    head = nn.Linear(len(logits), len(logits[0]), bias=False)
    head.weight.data = torch.tensor(logits).T
    return head


@pytest.mark.parametrize("chunk", [1, 2, 1024])
def test_nats_are_minus_the_log_of_the_probability(chunk):
    # exp(logits) are (1, 1, 2) and (6, 1, 1): the probabilities asked for are 2/4, 6/8 and 1/8.
    head = head_of([[0.0, 0.0, math.log(2)], [math.log(6), 0.0, 0.0]])
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    nats = token_nats(states, head, torch.tensor([2, 0, 1]), chunk=chunk)
    wanted = [math.log(2), math.log(4 / 3), math.log(8)]
    assert nats.tolist() == pytest.approx(wanted, rel=1e-6)


def test_bf16_logits_are_summed_in_fp32():
    # Of 4,096 equal logits each has probability 1/4096; a bf16 sum of ones would stop at 256.
    head = nn.Linear(1, 4096, bias=False, dtype=torch.bfloat16)
    nn.init.zeros_(head.weight)
    nats = token_nats(torch.ones(3, 1, dtype=torch.bfloat16), head, torch.tensor([0, 1, 4095]))
    assert nats.dtype == torch.float32
    assert nats.tolist() == pytest.approx([math.log(4096)] * 3, rel=1e-6)


def test_chunks_give_the_head_the_same_gradient():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(10, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    head, targets = nn.Linear(4, 9, dtype=torch.float64), torch.arange(10) % 9
    whole = torch.autograd.grad(token_nats(states, head, targets).sum(), [states, head.weight, head.bias])
    parts = torch.autograd.grad(token_nats(states, head, targets, chunk=3).sum(), [states, head.weight, head.bias])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_eos_is_marked_and_its_loss_can_be_left_out(student, builder):
    batch = builder.collate(student.sequences, side="left")
    with torch.no_grad():
        hidden = student.model.hidden_states(batch, student.model.visual_tokens(student.views))
        loss = target_loss(hidden, student.model.lm_head, batch)
    assert int(loss.is_eos.sum()) == 7
    # In row order, EOS is the last target token of each of the seven.
    counts = [sequence.target_tokens for sequence in student.sequences]
    ends = torch.tensor(counts).cumsum(0) - 1
    assert loss.is_eos.nonzero()[:, 0].tolist() == ends.tolist()
    assert counts[3] == 1, "the empty description is EOS alone"
