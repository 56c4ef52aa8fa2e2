"""Curves in characters, against places worked out by hand."""

from __future__ import annotations

import pytest

from lavic.monitor.curve import Losses, draw_losses, legend, loss_curve
from lavic.training.run_totals import Validation


def drawn(losses: Losses, width: int, height: int, **options: bool) -> list[str]:
    return ["".join(text for text, _ in row).rstrip() for row in draw_losses(losses, width, height, **options)]


def validation(step: int, loss: float | None) -> Validation:
    return Validation(step, loss, None, {})


def test_the_curve_falls_with_the_loss() -> None:
    lines = loss_curve([(step, 5.0 - step) for step in range(1, 5)], width=4, height=4)
    assert lines[1:] == [
        "train loss, step 1 to 4",
        "    4.000 |*",
        "          | *",
        "          |  *",
        "    1.000 |   *",
    ]


def test_one_odd_step_does_not_bend_the_curve() -> None:
    losses = [(step, 1.0) for step in range(1, 31)]
    losses[15] = (16, 1000.0)
    # Ten columns of three steps; the median of a column never sees the odd one.
    assert loss_curve(losses, width=10, height=3)[2:] == [
        "    1.000 |",
        "          |",
        "    1.000 |**********",
    ]


def test_the_mean_and_the_validations_stand_where_they_belong() -> None:
    # Ten steps, so the mean is that of all steps until then: 1, then (1 + 0) / 2, then (1 + 0 + 0) / 3 ...
    train = [(step, 1.0 if step == 1 else 0.0) for step in range(1, 11)]
    best = validation(10, 0.0)
    losses = Losses(train, [validation(5, 1.0), validation(7, None), best], best)
    # The mean of step n is 1 / n: the rows stand for 1, 0.5 and 0, so 1/2 and 1/3 are in the middle one.
    assert drawn(losses, 20, 4, single_steps=False, ascii_only=True) == [
        "   1.0000|*   o",
        "         | **",
        "   0.0000|   ******O",
        "          step 1  10",
    ]


def test_dots_are_those_of_braille() -> None:
    # Two steps, of two dots each way at the ends of 10 characters: top left and bottom right, joined by a line.
    rows = draw_losses(Losses([(1, 1.0), (2, 0.0)]), 20, 4, single_steps=True)
    assert rows[0][1][1] == "mean"
    assert ord(rows[0][1][0]) & 0x01  # the upper left dot
    # The mean of both steps is 0.5; the second step's own loss is the lowest right dot.
    assert rows[2][10] == (chr(0x2800 + 0x80), "train")


def test_an_odd_step_is_drawn_at_the_rim() -> None:
    train = [(step, 0.5) for step in range(1, 101)]
    train[50] = (51, 100.0)
    top = drawn(Losses(train), 60, 10, single_steps=True, ascii_only=True)[0]
    # The mean of ten steps with the odd one is (9 x 0.5 + 100) / 10: that is the highest that fits in.
    assert top.split("|")[0].strip() == "10.4500"


@pytest.mark.parametrize("height", [4, 5, 9, 30])
@pytest.mark.parametrize("width", [20, 33, 80, 200])
@pytest.mark.parametrize("steps", [2, 3, 1000, 20_000])
def test_a_drawing_has_the_size_that_was_asked_for(steps: int, width: int, height: int) -> None:
    train = [(step, 1.0) for step in range(1, steps + 1)]
    best = validation(steps, 0.5)
    rows = draw_losses(Losses(train, [validation(0, 2.0), best], best), width, height)
    assert len(rows) == height
    assert max(sum(len(text) for text, _ in row) for row in rows) <= width
    assert sum(text == "◆" for row in rows for text, _ in row) == 1


def test_nothing_is_drawn_without_steps_or_room() -> None:
    assert draw_losses(Losses([(1, 1.0)]), 80, 20) == []
    assert draw_losses(Losses([(1, 1.0), (2, 1.0)]), 15, 20) == []
    assert draw_losses(Losses([(1, 1.0), (2, 1.0)]), 80, 3) == []


def test_the_legend_names_what_is_there() -> None:
    losses = Losses([(step, 1.0) for step in range(1, 1001)])
    assert [mark for _, mark in legend(losses)] == ["train", "mean"]
    assert "mean of 50 steps" in legend(losses)[1][0]
