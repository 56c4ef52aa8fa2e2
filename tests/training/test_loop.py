"""The training loop on a problem small enough to be worked out beside it: two weights and squares of errors."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from lavic.errors import TrainingError
from lavic.training.checkpoints import RunState
from lavic.training.devices import make_fabric
from lavic.training.failures import machine_failures
from lavic.training.interrupts import stopping_signals
from lavic.training.loop import LoopSettings, StepReport, Trainer, learning_rate, seed_dropout

# Rows of (x0, x1, y): a sample is one row, and each counts as one token.
ROWS = [(1.0, 2.0, 3.0), (0.5, -1.0, 0.0), (2.0, 0.0, 1.0), (-1.0, 1.0, 2.0), (3.0, 1.0, -1.0)]


@dataclass(frozen=True)
class ToyMicroStep:
    """Squared errors of some rows; ``spoiled`` multiplies them, to make them anything."""

    weights: nn.Parameter
    rows: list[tuple[float, float, float]]
    spoiled: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{row[0]}.jpg" for row in self.rows)

    @property
    def tokens(self) -> int:
        return len(self.rows)

    def nats(self) -> Tensor:
        table = torch.tensor(self.rows, dtype=torch.float64)
        errors = table[:, :2] @ self.weights - table[:, 2]
        return (errors**2).sum() * self.spoiled


@dataclass
class ToyTask:
    """Remembers what the loop calls; ``plan`` holds the micro-steps of each step of an epoch."""

    plan: list[list[list[tuple[float, float, float]]]]
    weights: nn.Parameter = field(default_factory=lambda: nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    val_losses: list[float] = field(default_factory=list)
    spoiled: float = 1.0
    wait_s: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)
    reports: list[StepReport] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    strike_in_validation: int = 0
    known_astray: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.plan)

    def steps(self, epoch: int, first: int) -> Generator[list[ToyMicroStep], None, None]:
        self.asked.append((epoch, first))
        for step in self.plan[first:]:
            time.sleep(self.wait_s)
            yield [ToyMicroStep(self.weights, rows, self.spoiled) for rows in step]

    def validate(self, step: int, between_batches: Callable[[], None]) -> float:
        for batch in range(1, 4):
            if batch == self.strike_in_validation:
                os.kill(os.getpid(), signal.SIGINT)
            self.calls.append(("batch", batch))
            between_batches()
        self.calls = [call for call in self.calls if call[0] != "batch"]
        self.calls.append(("validate", step))
        return self.val_losses.pop(0) if self.val_losses else 1 / step

    def keep_best(self, step: int) -> None:
        self.calls.append(("keep_best", step))

    def astray(self, micro: ToyMicroStep) -> tuple[str, ...]:
        return micro.names[-self.known_astray :]

    def step_done(self, report: StepReport) -> None:
        self.reports.append(report)

    def epoch_done(self, epoch: int) -> None:
        self.calls.append(("epoch_done", epoch))

    def save_checkpoint(self, state: RunState, *, record: bool) -> None:
        self.calls.append(("save" if record else "save quietly", state.step))

    def called(self, name: str) -> list[int]:
        return [at for what, at in self.calls if what == name]


def trained(task: ToyTask, state: RunState | None = None, **settings: object) -> Trainer:
    """The task, trained to its end with plain gradient descent."""
    parameters = {"weights": task.weights}
    optimizer = torch.optim.SGD(parameters.values(), lr=1)
    fabric = make_fabric(torch.device("cpu"), "fp32")
    trainer = Trainer(fabric, task, LoopSettings(**settings), parameters, optimizer, state or RunState())
    trainer.run()
    return trainer


def one_by_one(steps: int) -> list[list[list[tuple[float, float, float]]]]:
    """A plan of ``steps`` steps of one sample."""
    return [[[ROWS[step % len(ROWS)]]] for step in range(steps)]


# -- learning rate -------------------------------------------------------------------------------------------


def test_the_warm_up_rises_in_equal_steps_and_then_the_rate_is_constant():
    settings = LoopSettings(lr=0.5, warmup=4)
    rates = [learning_rate(settings, step, 10) for step in range(10)]
    # The step behind the warm-up is the first at the full rate: 4 steps of a fifth each, then 1.
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, *[0.5] * 6], rel=1e-15)


def test_the_cosine_starts_behind_the_warm_up_and_would_reach_zero_one_step_after_the_last():
    settings = LoopSettings(lr=2.0, warmup=2, schedule="cosine")
    rates = [learning_rate(settings, step, 8) for step in range(8)]
    # 6 steps from full turn to half a turn, by hand: 1 + cos of 0, 30, 60, 90, 120, 150 degrees.
    turned = [2, 1 + math.sqrt(3) / 2, 1.5, 1, 0.5, 1 - math.sqrt(3) / 2]
    assert rates == pytest.approx([2 / 3, 4 / 3, *turned], rel=1e-12)
    assert learning_rate(settings, 8, 8) == pytest.approx(0, abs=1e-12)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(LoopSettings(lr=0.3), 0, 5) == 0.3
    assert learning_rate(LoopSettings(lr=0.3, schedule="cosine"), 0, 5) == 0.3


def test_a_step_is_taken_with_its_own_rate():
    task = ToyTask(one_by_one(4))
    trained(task, lr=0.01, warmup=1, schedule="cosine")
    expected = [learning_rate(LoopSettings(lr=0.01, warmup=1, schedule="cosine"), step, 4) for step in range(4)]
    assert [report.lr for report in task.reports] == expected


# -- the step ------------------------------------------------------------------------------------------------


def gradient_of_mean(rows: list[tuple[float, float, float]], weights: tuple[float, float]) -> tuple[float, float]:
    """Of the mean squared error, by hand."""
    errors = [x0 * weights[0] + x1 * weights[1] - y for x0, x1, y in rows]
    count = len(rows)
    return (
        sum(2 * error * row[0] for error, row in zip(errors, rows, strict=True)) / count,
        sum(2 * error * row[1] for error, row in zip(errors, rows, strict=True)) / count,
    )


@pytest.mark.parametrize("cut", [[5], [4, 1], [1, 1, 3], [1, 1, 1, 1, 1]], ids=["whole", "4+1", "1+1+3", "one by one"])
def test_uneven_micro_batches_make_the_step_of_one_batch(cut: list[int]):
    rows = list(ROWS)
    micro_steps = [[rows.pop(0) for _ in range(size)] for size in cut]
    task = ToyTask([micro_steps])
    trained(task, lr=0.1, gradient_clip=0)
    slope = gradient_of_mean(ROWS, (0.0, 0.0))
    assert task.weights.tolist() == pytest.approx([-0.1 * slope[0], -0.1 * slope[1]], rel=1e-12)
    (report,) = task.reports
    # (9 + 0 + 1 + 4 + 1) / 5; the mean of the micro-batches' means would be another number for each cut.
    assert report.train_loss == pytest.approx(3.0, rel=1e-15)
    assert (report.tokens, report.samples) == (5, 5)
    assert report.gradient_norm == pytest.approx(math.hypot(*slope), rel=1e-12)


def test_a_long_gradient_is_shortened_and_its_length_reported():
    task = ToyTask([[ROWS]])
    trained(task, lr=1.0, gradient_clip=0.25)
    slope = gradient_of_mean(ROWS, (0.0, 0.0))
    length = math.hypot(*slope)
    assert length > 1
    expected = [-0.25 * part / length for part in slope]
    assert task.weights.tolist() == pytest.approx(expected, rel=1e-5)  # torch adds 1e-6 to the length
    assert task.reports[0].gradient_norm == pytest.approx(length, rel=1e-12)


def test_micro_batches_whose_pictures_failed_count_for_nothing():
    task = ToyTask([[[], ROWS[:2], []]])
    trained(task, lr=0.1, gradient_clip=0)
    slope = gradient_of_mean(ROWS[:2], (0.0, 0.0))
    assert task.weights.tolist() == pytest.approx([-0.1 * part for part in slope], rel=1e-12)


def test_a_step_without_any_picture_changes_nothing_and_reports_no_loss():
    task = ToyTask([[[ROWS[0]]], [[], []]])
    trained(task, lr=0.1)
    once = ToyTask([[[ROWS[0]]]])
    trained(once, lr=0.1)
    assert task.weights.tolist() == once.weights.tolist()
    # Zero would look like a perfect step in the curve.
    assert math.isnan(task.reports[1].train_loss)
    assert (task.reports[1].tokens, task.reports[1].samples) == (0, 0)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples():
    task = ToyTask([[[ROWS[0]]], [[ROWS[2], ROWS[4]]]], spoiled=math.nan)
    with pytest.raises(TrainingError, match=r"the loss of step 1 is nan, with 1\.0\.jpg in it"):
        trained(task)
    assert task.weights.tolist() == [0, 0]
    assert task.called("save") == []


@pytest.mark.parametrize(
    ("known", "names"),
    [(1, r"3\.0\.jpg"), (0, r"1\.0\.jpg, 0\.5\.jpg, 2\.0\.jpg, -1\.0\.jpg and 1 more")],
)
def test_the_samples_that_are_named_are_those_that_the_task_tells(known: int, names: str):
    task = ToyTask([[ROWS]], spoiled=math.inf, known_astray=known)
    with pytest.raises(TrainingError, match=f"the loss of step 1 is inf, with {names} in it"):
        trained(task)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(clip: float):
    class Endless(torch.autograd.Function):
        """A finite loss with an infinite slope."""

        @staticmethod
        def forward(context, weights):
            return weights.sum()

        @staticmethod
        def backward(context, upstream):
            return torch.tensor([math.inf, 0.0], dtype=torch.float64)

    @dataclass(frozen=True)
    class SteepMicroStep(ToyMicroStep):
        def nats(self) -> Tensor:
            return Endless.apply(self.weights)

    task = ToyTask([[]])
    task.steps = lambda epoch, first: (step for step in [[SteepMicroStep(task.weights, [ROWS[0]])]])
    with pytest.raises(TrainingError, match=r"the gradient of step 1 is (inf|nan), with .+ in it"):
        trained(task, gradient_clip=clip)
    assert task.weights.tolist() == [0, 0]


def test_dropout_is_drawn_by_step_and_micro_step():
    drawn = []
    for step, micro_step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        torch.rand(5)  # whatever was drawn before
        seed_dropout(42, step, micro_step)
        drawn.append(torch.rand(3).tolist())
    assert drawn[3] == drawn[0]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_the_wait_for_pictures_counts_as_time_of_the_step():
    task = ToyTask(one_by_one(2), wait_s=0.05)
    trained(task, lr=0.01)
    assert all(report.seconds >= 0.05 for report in task.reports)


# -- between steps -------------------------------------------------------------------------------------------


def test_an_epochs_end_validates_records_and_saves():
    task = ToyTask(one_by_one(3))
    trained(task, epochs=2, lr=0.01)
    assert task.calls == [
        ("validate", 3),
        ("keep_best", 3),
        ("epoch_done", 0),
        ("save", 3),
        ("validate", 6),
        ("keep_best", 6),
        ("epoch_done", 1),
        ("save", 6),
        ("save", 6),  # as finished
    ]
    assert [report.epoch for report in task.reports] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_validations_inside_the_epoch_come_every_so_many_steps_of_the_run():
    task = ToyTask(one_by_one(5))
    trained(task, epochs=2, validate_every=3, lr=0.01)
    assert task.called("validate") == [3, 5, 6, 9, 10]
    assert task.called("epoch_done") == [0, 1]


def test_a_checkpoint_comes_every_so_many_steps_and_behind_each_validation():
    task = ToyTask(one_by_one(5))
    trained(task, checkpoint_steps=2, lr=0.01)
    assert task.called("save") == [2, 4, 5, 5]


def test_a_checkpoint_comes_every_so_many_minutes_and_leaves_no_row_that_a_slower_run_would_not_have():
    task = ToyTask(one_by_one(4), wait_s=0.03)
    trained(task, checkpoint_minutes=0.02 / 60, checkpoint_steps=2, lr=0.01)
    assert task.called("save quietly") == [1, 3]
    assert task.called("save") == [2, 4, 4]  # step 4 ends the epoch, and the run


def test_only_a_lower_loss_is_the_best():
    task = ToyTask(one_by_one(5), val_losses=[3.0, 2.0, 2.0, 2.5, 1.0])
    trainer = trained(task, validate_every=1, lr=0.01)
    assert task.called("keep_best") == [1, 2, 5]
    assert (trainer.state.best_loss, trainer.state.best_step, trainer.state.bad_validations) == (1.0, 5, 0)


def test_patience_ends_the_run_inside_an_epoch():
    task = ToyTask(one_by_one(9), val_losses=[3.0, 3.0, 2.0, 2.0, 2.5])
    trainer = trained(task, validate_every=1, patience=2, lr=0.01)
    assert len(task.reports) == 5
    assert trainer.state.finished
    assert trainer.state.best_step == 3
    # What an epoch leaves is left by a part of one too.
    assert task.called("epoch_done") == [0]


def test_max_steps_ends_the_run_inside_an_epoch_with_a_validation():
    task = ToyTask(one_by_one(4))
    trained(task, epochs=3, max_steps=6, lr=0.01)
    assert len(task.reports) == 6
    assert task.called("validate") == [4, 6]
    assert task.called("epoch_done") == [0, 1]


def test_max_steps_beyond_the_epochs_changes_nothing():
    task = ToyTask(one_by_one(4))
    trained(task, epochs=1, max_steps=99, lr=0.01)
    assert len(task.reports) == 4


# -- stopping and going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "asked"), [(0, [(0, 0), (1, 0)]), (2, [(0, 2), (1, 0)]), (3, [(1, 0)]), (4, [(1, 1)])]
)
def test_a_run_goes_on_where_its_state_stands(done: int, asked: list[tuple[int, int]]):
    task = ToyTask(one_by_one(3))
    trained(task, RunState(step=done), epochs=2, lr=0.01)
    assert task.asked == asked
    assert [report.step for report in task.reports] == list(range(done + 1, 7))


def test_a_run_whose_last_step_is_done_is_only_marked_as_finished():
    task = ToyTask(one_by_one(3))
    trainer = trained(task, RunState(step=3))
    assert task.calls == [("save", 3)]
    assert trainer.state.finished


def test_patience_that_was_used_up_before_stays_used_up():
    task = ToyTask(one_by_one(3))
    trained(task, RunState(step=1, bad_validations=2), patience=2)
    assert task.reports == []


@pytest.fixture
def usual_signals() -> Generator[None, None, None]:
    """As in a terminal: whoever runs the tests in the background may have them ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {kind: signal.signal(kind, handler) for kind, handler in usual.items()}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.usefixtures("usual_signals")
def test_a_terminal_that_is_closed_stops_a_run_unless_that_is_to_be_ignored():
    assert signal.SIGHUP in stopping_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    assert stopping_signals() == [signal.SIGINT, signal.SIGTERM]


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_step_end_and_saves_without_a_record(kind: signal.Signals):
    task = ToyTask(one_by_one(5))
    original = task.step_done

    def strike(report: StepReport) -> None:
        original(report)
        if report.step == 2:
            os.kill(os.getpid(), kind)

    task.step_done = strike
    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt):
        trained(task, lr=0.01)
    assert task.calls == [("save quietly", 2)]
    assert signal.getsignal(kind) is before


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_ends_a_validation_behind_its_batch_and_it_is_done_on_resuming():
    task = ToyTask(one_by_one(3), strike_in_validation=2)
    state = RunState()
    with pytest.raises(KeyboardInterrupt):
        trained(task, state, epochs=2, lr=0.01)
    assert task.calls == [("batch", 1), ("batch", 2), ("save quietly", 3)]
    assert (state.step, state.validation_due, state.best_loss) == (3, True, None)
    whole, again = ToyTask(one_by_one(3)), ToyTask(one_by_one(3), weights=task.weights)
    trained(whole, epochs=2, lr=0.01)
    trained(again, state, epochs=2, lr=0.01)
    assert again.calls == whole.calls
    assert again.asked == [(1, 0)]
    assert again.weights.tolist() == whole.weights.tolist()
    assert not state.validation_due


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_in_the_step_before_a_validation_does_not_wait_for_it():
    task = ToyTask(one_by_one(4))
    original = task.step_done

    def strike(report: StepReport) -> None:
        original(report)
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    task.step_done = strike
    state = RunState()
    with pytest.raises(KeyboardInterrupt):
        trained(task, state, validate_every=2, lr=0.01)
    assert task.calls == [("save quietly", 2)]
    assert state.validation_due
    # In the middle of an epoch: the validation first, then the steps that are left.
    task.calls, task.step_done = [], original
    trained(task, state, validate_every=2, lr=0.01)
    assert task.calls[:3] == [("validate", 2), ("keep_best", 2), ("save", 2)]
    assert task.asked[-1] == (0, 2)
    assert [report.step for report in task.reports] == [1, 2, 3, 4]


@pytest.mark.usefixtures("usual_signals")
def test_a_second_signal_stops_at_once_and_saves_nothing():
    @dataclass(frozen=True)
    class InterruptedMicroStep(ToyMicroStep):
        def nats(self) -> Tensor:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal came back")

    task = ToyTask([[]])
    task.steps = lambda epoch, first: (step for step in [[InterruptedMicroStep(task.weights, [ROWS[0]])]])
    with pytest.raises(KeyboardInterrupt):
        trained(task, lr=0.01)
    assert (task.calls, task.reports) == ([], [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_stops_the_run_and_is_no_best(loss: float):
    task = ToyTask(one_by_one(3), val_losses=[1.0, loss])
    with pytest.raises(TrainingError, match=f"the validation loss after step 2 is {loss}"):
        trained(task, validate_every=1, lr=0.01)
    assert (task.called("keep_best"), task.called("save")) == ([1], [1])


# -- fp16 ----------------------------------------------------------------------------------------------------


def with_scaler(task: ToyTask, state: RunState, **settings: object) -> Trainer:
    """The task under the loss scaler that fp16 needs; it works on a CPU too."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))
    parameters = {"weights": task.weights}
    optimizer = torch.optim.SGD(parameters.values(), lr=1)
    trainer = Trainer(fabric, task, LoopSettings(**settings), parameters, optimizer, state)
    trainer.run()
    return trainer


def in_float32() -> nn.Parameter:
    return nn.Parameter(torch.zeros(2))


@dataclass(frozen=True)
class Float32MicroStep(ToyMicroStep):
    """The same in the type of LoRA's weights."""

    def nats(self) -> Tensor:
        table = torch.tensor(self.rows)
        return ((table[:, :2] @ self.weights - table[:, 2]) ** 2).sum() * self.spoiled


@dataclass
class Float32Task(ToyTask):
    weights: nn.Parameter = field(default_factory=in_float32)
    overflow_at: int | None = None

    def steps(self, epoch: int, first: int) -> Generator[list[ToyMicroStep], None, None]:
        for number, step in enumerate(self.plan[first:], first):
            # A loss that is finite itself and overflows once it is multiplied by the scale.
            spoiled = 1e36 if number == self.overflow_at else 1.0
            yield [Float32MicroStep(self.weights, rows, spoiled) for rows in step]


@pytest.mark.parametrize("clip", [0.0, 0.25])
def test_scaled_losses_give_the_steps_of_unscaled_ones(clip: float):
    plan = [[ROWS[:2], ROWS[2:3]], [ROWS[3:]], [ROWS]]
    plain, scaled = Float32Task(plan), Float32Task(plan)
    trained(plain, lr=0.05, gradient_clip=clip)
    with_scaler(scaled, RunState(), lr=0.05, gradient_clip=clip)
    assert scaled.weights.tolist() == pytest.approx(plain.weights.tolist(), rel=1e-6)
    for one, other in zip(scaled.reports, plain.reports, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-6)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-5)


def test_a_step_that_overflows_is_left_out_and_the_scale_is_halved_and_kept():
    task = Float32Task(one_by_one(2), overflow_at=1)
    once = Float32Task(one_by_one(1))
    state = RunState()
    with_scaler(task, state, lr=0.05)
    with_scaler(once, RunState(), lr=0.05)
    assert task.weights.tolist() == once.weights.tolist() != [0, 0]
    assert state.scaler["scale"] == 512
    # A resumed run starts from the scale that was kept, not from 1024; two good steps then double it.
    state.step, state.finished = 0, False
    again = Float32Task(one_by_one(2))
    with_scaler(again, state, lr=0.05)
    assert state.scaler["scale"] == 1024


class Endless(torch.autograd.Function):
    """A finite loss with an infinite slope."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return slope * math.inf


@dataclass(frozen=True)
class EndlessMicroStep(Float32MicroStep):
    def nats(self) -> Tensor:
        return Endless.apply(super().nats())


@dataclass
class EndlessTask(Float32Task):
    """Has an infinite gradient in all steps but one."""

    fine_at: int | None = None

    def steps(self, epoch: int, first: int) -> Generator[list[ToyMicroStep], None, None]:
        for number, step in enumerate(self.plan[first:], first):
            kind = Float32MicroStep if number == self.fine_at else EndlessMicroStep
            yield [kind(self.weights, rows) for rows in step]


def test_steps_that_overflow_without_end_stop_the_run():
    task, state = EndlessTask(one_by_one(30), fine_at=2), RunState()
    with pytest.raises(TrainingError, match=r"the gradient of step 28 is (inf|nan), as in the 24 steps before"):
        with_scaler(task, state, lr=0.05)
    # Two that overflowed before one that did not, then 24; the 25th is not counted as done.
    assert (state.step, state.overflows) == (27, 25)


def test_steps_that_overflowed_before_a_run_was_resumed_count():
    state = RunState()
    with_scaler(EndlessTask(one_by_one(24)), state, lr=0.05)
    assert (state.step, state.overflows) == (24, 24)
    state.finished = False
    with pytest.raises(TrainingError, match=r"the gradient of step 25 is (inf|nan), as in the 24 steps before"):
        with_scaler(EndlessTask(one_by_one(30)), state, lr=0.05)


# -- the machine ---------------------------------------------------------------------------------------------


def test_a_full_gpu_is_one_sentence_that_names_the_mend():
    with (
        pytest.raises(TrainingError, match=r"the GPU's memory is full.*smaller --batch_size") as caught,
        machine_failures(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "Tried to allocate" not in caught.value.sentence


def test_a_worker_that_died_is_one_sentence_that_names_the_mend():
    message = (
        "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are "
        "out of shared memory. Please try to raise your shared memory limit."
    )
    with pytest.raises(TrainingError, match=r"ended from outside \(Bus error\)\. .*--num_workers"), machine_failures():
        raise RuntimeError(message)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), r"the GPU's memory is full"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            r"the GPU's memory",
        ),
        (MemoryError(), r"the machine's memory is full\. .*--num_workers"),
    ],
)
def test_other_ways_of_saying_that_memory_is_full(error: Exception, sentence: str):
    with pytest.raises(TrainingError, match=sentence), machine_failures():
        raise error


def test_a_full_memory_of_the_machine_is_one_sentence_too():
    with pytest.raises(TrainingError, match=r"the machine's memory is full"), machine_failures():
        torch.empty(10**16)  # as torch itself says it


def test_a_command_that_does_not_train_has_a_mend_of_its_own():
    sentence = r"memory is full\. What was made is kept\.$"
    with pytest.raises(TrainingError, match=sentence), machine_failures("What was made is kept."):
        raise MemoryError


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="a defect"), machine_failures():
        raise RuntimeError("a defect")
