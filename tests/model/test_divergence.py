"""Learning from the teacher's probabilities: the divergence from its K likeliest tokens, and where it stands."""

from __future__ import annotations

import math
from dataclasses import replace

import oracles
import pytest
import torch
from model.tiny_models import fill_lora, make_base, random_views
from torch import Tensor, nn

from lavic.model.accelerations import PLAIN, Accelerations
from lavic.model.adapters import LoraSettings, attach_vision_lora, lora_parameters
from lavic.model.losses import Objective, TeacherTokens, divergence, target_loss
from lavic.model.prefix_cache import PrefixCache, shared_length
from lavic.model.visual_tokens import FiveTokenModel

V, N = 11, 6
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])


def drawn(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def top_of(logits: Tensor, k: int) -> TeacherTokens:
    """What a store keeps of [n, vocabulary] logits, here unrounded."""
    log_probs = logits.log_softmax(-1)
    top, ids = log_probs.topk(k, -1)
    return TeacherTokens(ids, top, (1 - top.exp().sum(-1)).log())


def with_gradient(student: Tensor, loss_of) -> tuple[Tensor, Tensor]:
    """Divergences [n], and the gradient of their sum."""
    leaf = student.clone().requires_grad_()
    found = loss_of(leaf)
    return found.detach(), torch.autograd.grad(found.sum(), leaf)[0]


@TEMPERATURES
@pytest.mark.parametrize("k", [1, 3, 10])
def test_it_equals_plain_sums_over_the_top_and_a_bucket(k: int, temperature: float) -> None:
    teacher, student = drawn(0, N, V), drawn(1, N, V)
    top = top_of(teacher, k)

    def plainly(leaf: Tensor) -> Tensor:
        rows = zip(teacher, leaf, top.ids.tolist(), strict=True)
        return torch.stack([oracles.coarse_divergence(p, q, ids, temperature) for p, q, ids in rows])

    wanted, wanted_gradient = with_gradient(student, plainly)
    found, gradient = with_gradient(student, lambda leaf: divergence(leaf, top, temperature))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-9, atol=1e-12)


@TEMPERATURES
def test_with_all_tokens_but_one_it_is_the_divergence_over_the_vocabulary(temperature: float) -> None:
    teacher, student = drawn(2, N, V), drawn(3, N, V)

    def plainly(leaf: Tensor) -> Tensor:
        return torch.stack([oracles.whole_divergence(p, q, temperature) for p, q in zip(teacher, leaf, strict=True)])

    wanted, wanted_gradient = with_gradient(student, plainly)
    found, gradient = with_gradient(student, lambda leaf: divergence(leaf, top_of(teacher, V - 1), temperature))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-9, atol=1e-12)


def test_it_grows_with_k_towards_the_divergence_over_the_vocabulary() -> None:
    teacher, student = drawn(4, N, V), drawn(5, N, V)
    by_k = torch.stack([divergence(student, top_of(teacher, k)) for k in range(1, V)])
    whole = torch.stack([oracles.whole_divergence(p, q) for p, q in zip(teacher, student, strict=True)])
    assert bool((by_k.diff(dim=0) >= -1e-12).all())
    assert bool((by_k[0] < 0.9 * whole).any()), "one token says less than all"
    torch.testing.assert_close(by_k[-1], whole, rtol=1e-10, atol=1e-12)


def test_by_hand() -> None:
    # The teacher: 1/2 for token 2, 1/4 for token 0, 1/4 for the rest. The student: 1/4, 1/4, and 1/2 for two others.
    # 1/2 ln 2 + 1/4 ln 1 + 1/4 ln 1/2 = 1/4 ln 2.
    student = torch.tensor([[0.25, 0.25, 0.25, 0.25]]).log()
    top = TeacherTokens(torch.tensor([[2, 0]]), torch.tensor([[0.5, 0.25]]).log(), torch.tensor([0.25]).log())
    assert float(divergence(student, top)) == pytest.approx(0.25 * math.log(2), rel=1e-6)


def test_a_student_that_thinks_as_the_teacher_has_none_whatever_is_rounded() -> None:
    teacher = drawn(6, N, V).float()
    top = top_of(teacher, 4)
    stored = TeacherTokens(top.ids, top.log_probs.half().float(), top.rest)
    assert divergence(teacher, top).tolist() == pytest.approx([0.0] * N, abs=1e-6)
    # float16 has three digits; made to sum to 1 again, a divergence is never below 0 and of second order in them.
    rounded = divergence(teacher, stored)
    assert bool((rounded >= -1e-7).all())
    assert float(rounded.max()) < 1e-5


def test_what_the_teacher_rules_out_costs_nothing_and_gives_no_nan() -> None:
    top = TeacherTokens(torch.tensor([[0, 1]]), torch.tensor([[0.0, -math.inf]]), torch.tensor([-math.inf]))
    leaf = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    found = divergence(leaf, top)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    probabilities = torch.tensor([1.0, 0.0, -1.0]).softmax(0)
    assert found.tolist() == pytest.approx([-math.log(float(probabilities[0]))], rel=1e-6)
    wanted = probabilities - torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(gradient[0], wanted)


def test_a_rest_of_nearly_nothing_keeps_its_digits() -> None:
    # 1e-8 beside 1: in fp32 one minus the other is nothing.
    student = torch.tensor([[0.0, math.log(1e-8)]])
    top = TeacherTokens(torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]), torch.tensor([math.log(0.5)]))
    assert float(divergence(student, top)) == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5e8), rel=1e-5)


def test_bf16_logits_are_compared_in_fp32() -> None:
    teacher = TeacherTokens(torch.tensor([[3]]), torch.tensor([[0.0]]), torch.tensor([-30.0]))
    found = divergence(torch.zeros(1, 4096, dtype=torch.bfloat16), teacher)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(math.log(4096), rel=1e-4)


# -- at a sample's target tokens, however they are computed --------------------------------------------------

TEXTS = [("Mug", "A round blue mug with a white handle."), ("", "Red."), ("x", ""), ("A longer title, 2 pack", "Beige")]
BOTH = Objective(nll=1.0, kl=0.7, temperature=2.0)
ALL = Accelerations(activation_checkpointing=True)


@pytest.fixture(scope="module")
def student(tokenizer, builder):
    base = make_base(tokenizer)
    wrapped = attach_vision_lora(base.model, LoraSettings(dropout=0.0))
    fill_lora(wrapped)
    sequences = [builder.distill(title, description) for title, description in TEXTS]
    vocabulary = base.model.lm_head.weight.shape[0]
    teachers = [
        top_of(drawn(number, sequence.target_tokens, vocabulary, scale=4.0), 5)
        for number, sequence in enumerate(sequences)
    ]
    return FiveTokenModel(base), wrapped, sequences, teachers


def stacked(teachers: list[TeacherTokens]) -> TeacherTokens:
    return TeacherTokens(
        *(torch.cat([getattr(one, name) for one in teachers]) for name in ("ids", "log_probs", "rest"))
    )


def losses(student, builder, rows: list[int], accelerations: Accelerations, objective: Objective, chunk: int = 1024):
    """Loss of some samples, and LoRA's gradients of what is minimised."""
    model, wrapped, sequences, teachers = student
    model.accelerate(accelerations)
    prefix = None
    if accelerations.prefix_cache:
        start = sequences[0].input_ids[: shared_length(sequences)]
        prefix = PrefixCache(model.llava.model.language_model, model.llava.get_input_embeddings(), start)
    wrapped.zero_grad(set_to_none=True)
    batch = builder.collate([sequences[row] for row in rows])
    hidden = model.hidden_states(batch, model.visual_tokens(random_views(len(TEXTS))[rows]), prefix)
    loss = target_loss(
        hidden,
        model.lm_head,
        batch,
        chunk=chunk,
        everywhere=not accelerations.target_logits,
        teacher=stacked([teachers[row] for row in rows]),
        objective=objective,
    )
    loss.weighed(objective).backward()
    return loss, {name: parameter.grad.clone() for name, parameter in lora_parameters(wrapped).items()}


@pytest.fixture(scope="module")
def plain(student, builder):
    """One sample at a time, no short cut, every token's divergence by the oracle from the logits."""
    model, _, sequences, teachers = student
    found = []
    for row, teacher in enumerate(teachers):
        loss, gradients = losses(student, builder, [row], PLAIN, BOTH)
        batch = builder.collate([sequences[row]])
        with torch.no_grad():
            logits = model.lm_head(model.hidden_states(batch, model.visual_tokens(random_views(len(TEXTS))[[row]])))[0]
        first = sequences[row].prompt_length - 1
        wanted = []
        for place in range(sequences[row].target_tokens):
            # A teacher's logits with these very numbers: the rest evenly among all others.
            likely = torch.full_like(logits[0], float(teacher.rest[place]) - math.log(logits.shape[1] - 5))
            likely[teacher.ids[place]] = teacher.log_probs[place]
            top = teacher.ids[place].tolist()
            wanted.append(float(oracles.coarse_divergence(likely, logits[first + place], top, BOTH.temperature)))
        assert loss.divergences.tolist() == pytest.approx(wanted, rel=1e-10)
        found.append((loss.nats.detach(), loss.divergences.detach(), gradients))
    return found


HOW = {
    "plain": PLAIN,
    "all": ALL,
    "target_logits": replace(PLAIN, target_logits=True),
    "all but it": replace(ALL, target_logits=False),
    "cls_only": replace(PLAIN, cls_only=True),
    "prefix_cache": replace(PLAIN, prefix_cache=True),
    "frozen_start": replace(PLAIN, frozen_start=True),
    "lean_vision": replace(PLAIN, lean_vision=True),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rows", [[2], [3, 1], [3, 2, 1, 0]], ids=["batch1", "batch2", "batch4"])
def test_every_short_cut_leaves_both_losses_and_their_gradients(student, builder, plain, rows, how) -> None:
    loss, gradients = losses(student, builder, rows, HOW[how], BOTH)
    torch.testing.assert_close(loss.nats.detach(), torch.cat([plain[row][0] for row in rows]), rtol=1e-10, atol=0)
    wanted = torch.cat([plain[row][1] for row in rows])
    torch.testing.assert_close(loss.divergences.detach(), wanted, rtol=1e-9, atol=1e-12)
    assert int(loss.is_eos.sum()) == len(rows), "EOS is learnt too"
    for name, gradient in gradients.items():
        total = sum(plain[row][2][name] for row in rows)
        scale = float(total.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(gradient, total, rtol=0, atol=1e-9 * scale, msg=name)


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_of_any_size_are_one(student, builder, plain, chunk: int) -> None:
    loss, gradients = losses(student, builder, [0, 1], ALL, BOTH, chunk=chunk)
    wanted = torch.cat([plain[row][1] for row in (0, 1)])
    torch.testing.assert_close(loss.divergences.detach(), wanted, rtol=1e-9, atol=1e-12)
    for name, gradient in gradients.items():
        total = sum(plain[row][2][name] for row in (0, 1))
        torch.testing.assert_close(gradient, total, rtol=0, atol=1e-9 * float(total.abs().max()), msg=name)


def test_the_objective_weighs_the_two_and_kl_alone_has_no_gradient_of_the_text(student, builder) -> None:
    rows = [0, 3]
    made = {
        name: losses(student, builder, rows, ALL, objective)
        for name, objective in {
            "nll": Objective(temperature=2.0),
            "kl": Objective(nll=0.0, kl=1.0, temperature=2.0),
            "both": BOTH,
        }.items()
    }
    sums = {name: float(loss.total.detach()) for name, (loss, _) in made.items()}
    assert sums["nll"] == sums["kl"] == sums["both"], "the log tells the nll of each"
    for name, gradient in made["both"][1].items():
        mixed = made["nll"][1][name] + 0.7 * made["kl"][1][name]
        torch.testing.assert_close(gradient, mixed, rtol=0, atol=1e-9 * float(mixed.abs().max()), msg=name)
    loss = made["both"][0]
    weighed = float(loss.weighed(BOTH).detach())
    assert weighed == pytest.approx(sums["both"] + 0.7 * float(loss.divergences.detach().sum()), rel=1e-12)


def test_numbers_of_another_number_of_tokens_are_refused(student, builder) -> None:
    model, _, sequences, teachers = student
    model.accelerate(PLAIN)
    batch = builder.collate(sequences[:1])
    with torch.no_grad():
        hidden = model.hidden_states(batch, model.visual_tokens(random_views(1)))
    with pytest.raises(ValueError, match=rf"those of 1 tokens, not of {sequences[0].target_tokens}"):
        target_loss(hidden, nn.Identity(), batch, teacher=teachers[2])
