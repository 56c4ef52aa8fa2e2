"""The screen as lines of text: what it says, and that it fits, whatever the size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from lavic.monitor.machine import Gpu, GpuReading, ProcessUse
from lavic.monitor.screen import KEYS, Paper, Snapshot, frame
from lavic.training.run_totals import Validation
from lavic.training.run_view import RunView


def a_run(steps: int = 850, **fields: object) -> RunView:
    validations = [Validation(step, 1.0 - step / 1000, 2.5 - step / 1000, {}) for step in range(100, steps, 100)]
    values = {
        "command": "distill",
        "step": steps,
        "total_steps": 1250,
        "epoch": 0.68,
        "losses": [(step, 1.0 + 1.0 / step) for step in range(1, steps + 1)],
        "validations": validations,
        "best": validations[2] if len(validations) > 2 else None,
        "samples_per_s": 3.21,
        "mean_samples_per_s": 3.1,
        "eta_s": 3700.0,
        "elapsed_s": 7300.0,
        "silent_s": 1.0,
        "lr": 5e-5,
        "gradient_norm": 1.25,
        "memory_gb": 15.2,
        "skipped": 3,
        "skipped_reasons": {"the file is empty": 2, "no title": 1},
        "last_checkpoint_step": 800,
    }
    return RunView(Path("out_distilled"), "running", **{**values, **fields})  # type: ignore[arg-type]


def a_shot(view: RunView | None = None) -> Snapshot:
    warning = "2025-01-01 00:00:02 WARNING the disk is nearly full"
    return Snapshot(
        view=a_run() if view is None else view,
        log=Path("logs/training_20250101_000000.log"),
        lines=["2025-01-01 00:00:01 step step=1 train_loss=0.7000", warning],
        alerts=[warning],
        alert_count=1,
        gpu=GpuReading((Gpu("0", "H100", 98.0, 65.5, 85.5, 64.0),)),
        process=ProcessUse(1234, 105.0, 3.25, 16.0),
    )


def lines_of(name: str, shot: Snapshot, width: int = 80, height: int = 24, **options: bool) -> list[str]:
    return [line.plain.rstrip() for line in frame(name, shot, Paper(width, height, **options))]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_overview_has_everything_on_a_usual_terminal(width: int, height: int) -> None:
    lines = lines_of("live", a_shot(), width, height)
    assert len(lines) == height
    text = "\n".join(lines)
    for expected in (
        "distill in out_distilled",
        "running",
        "step 850 of 1,250 (68 %), epoch 0.68, 2 h 01 min so far, 1 h 01 min left",
        "train_loss     1.0012 (mean of 42:",
        "samples/s      3.21 (mean 3.1)",
        "learning rate  5.000e-05",
        "gradient norm  1.2500",
        "peak memory    15.2 GB",
        "checkpoint     step 800",
        "left out       3 (2 the file is empty",
        "val_perplexity",
        "300    0.7000    2.2000  best",
        "800    0.2000    1.7000",
        "◆ best",
        "step 1",
        "GPU 0 H100: 98 % used, 65.5 of 85.5 GB, 64 C",
        "process 1234: 105 % CPU, 3.2 of 16.0 GB RAM",
        "warnings and errors: 1, in logs/training_20250101_000000.log",
        "WARNING the disk is nearly full",
        "q quit",
    ):
        assert expected in text
    assert sum("⠀" < sign <= "⣿" for sign in text) > width // 2  # the curve, in Braille


@pytest.mark.parametrize("name", KEYS.values())
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 12), (20, 3), (300, 100)])
def test_every_view_fits(name: str, width: int, height: int, ascii_only: bool) -> None:
    hostile = replace(a_shot(), alerts=["2025-01-01 00:00:02 WARNING 漢字\x1b[2J" + "x" * 500] * 300, alert_count=300)
    many = replace(hostile, gpu=GpuReading((hostile.gpu.gpus[0],) * 16))
    empty = Snapshot(RunView(Path("o"), "none"))
    for shot in (a_shot(), many, empty, a_shot(a_run(1)), a_shot(a_run(0, epoch=None))):
        lines = frame(name, shot, Paper(width, height, ascii_only=ascii_only))
        assert len(lines) == height
        assert all(cell_len(line.plain) <= width for line in lines)
        text = "".join(line.plain for line in lines)
        assert text.isprintable()
        assert text.isascii() or not ascii_only


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "starting"}, "starting"),
        ({"status": "killed", "eta_s": None}, "not running, and it did not come to an end (killed?)"),
        ({"status": "interrupted"}, "Go on from the last checkpoint with: lavic distill ... --resume"),
        ({"status": "failed", "end": {"reason": "OutputError: the disk is full"}}, "OutputError: the disk is full"),
        ({"silent_s": 700.0}, "Nothing new for 11 min 40 s"),
        ({"skipped": 0, "skipped_reasons": {}}, "left out       nothing"),
    ],
)
def test_the_screen_says_how_the_run_is(fields: dict[str, object], expected: str) -> None:
    assert expected in "\n".join(lines_of("live", a_shot(replace(a_run(), **fields))))  # type: ignore[arg-type]


def test_slow_steps_are_not_called_silence() -> None:
    # 400 steps in 3,700 s are 9.25 s each; twenty of them are 185 s.
    assert "Nothing new" not in "\n".join(lines_of("live", a_shot(a_run(silent_s=180.0))))
    assert "Nothing new" in "\n".join(lines_of("live", a_shot(a_run(silent_s=190.0))))


def test_the_best_validation_is_shown_when_it_is_long_ago() -> None:
    view = a_run(12_000, total_steps=20_000)
    shown = "\n".join(lines_of("live", a_shot(view)))
    assert "300    0.7000    2.2000  best" in shown
    assert "11,900" in shown


def test_what_is_not_to_be_read_is_said() -> None:
    shot = replace(a_shot(), problem="cannot be read (Stale file handle): out/events.jsonl")
    assert "cannot be read (Stale file handle)" in "\n".join(lines_of("live", shot))


def test_the_other_views_say_more() -> None:
    assert "        2  the file is empty" in lines_of("errors", a_shot())
    assert "2025-01-01 00:00:01 step step=1 train_loss=0.7000" in lines_of("log", a_shot())
    gpu = "\n".join(lines_of("gpu", a_shot()))
    assert "temperature C" in gpu
    assert "65.5" in gpu
    assert "no NVIDIA GPU" in lines_of("gpu", replace(a_shot(), gpu=GpuReading(problem="no NVIDIA GPU")))


def test_colours_tell_good_from_bad() -> None:
    def styles(shot: Snapshot) -> set[str]:
        return {str(span.style) for line in frame("live", shot, Paper(80, 24)) for span in line.spans}

    assert "bold red" in styles(a_shot(replace(a_run(), status="killed")))
    assert "bold red" not in styles(a_shot())
