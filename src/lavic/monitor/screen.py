"""What the monitor shows, line by line: made from facts alone, so that it can be looked at without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.cells import cell_len
from rich.text import Text

from lavic.monitor.curve import Cell, Losses, draw_losses, legend
from lavic.monitor.figures import STATUS_WORDS, figures, next_step, progress, silence, validation_rows
from lavic.monitor.machine import Gpu, GpuReading, ProcessUse
from lavic.rendering import plain_table
from lavic.training.run_view import RunView

KEYS = {"l": "live", "c": "curve", "e": "errors", "g": "gpu", "f": "log"}
_KEY_NAMES = {"live": "overview", "errors": "warnings", "gpu": "GPU"}
_STYLES = {
    "axis": "dim",
    "train": "cyan",
    "mean": "bold blue",
    "validation": "yellow",
    "best": "bold green",
}
_STATUS_STYLES = {
    "running": "bold green",
    "starting": "bold cyan",
    "finished": "bold green",
    "stopped": "bold yellow",
    "interrupted": "bold yellow",
    "failed": "bold red",
    "killed": "bold red",
}
_LEFT = 43  # characters of the figures, beside which the validations stand
_MIN_CURVE = 6


@dataclass(frozen=True)
class Snapshot:
    """All that is shown.

    Attributes:
        view: the run.
        log: its text log; lines and alerts (warnings and errors) are the last ones, oldest first.
        problem: why the figures are not fresh, a sentence.
    """

    view: RunView
    log: Path | None = None
    lines: Sequence[str] = ()
    alerts: Sequence[str] = ()
    alert_count: int = 0
    gpu: GpuReading = field(default_factory=GpuReading)
    process: ProcessUse | None = None
    problem: str = ""


@dataclass(frozen=True)
class Paper:
    """What is drawn on.

    Attributes:
        width, height: in characters.
        colour: without it nothing is drawn that only its colour explains.
        ascii_only: the terminal shows no other characters.
        full_screen: lines are cut at its edge, and the last tells what can be pressed; otherwise it is text that
            may be longer.
    """

    width: int
    height: int
    colour: bool = True
    ascii_only: bool = False
    full_screen: bool = True


def frame(name: str, shot: Snapshot, paper: Paper) -> list[Text]:
    """The lines of one view, at most ``paper.height``, and on a full screen none wider than ``paper.width``."""
    bodies: dict[str, Callable[[Snapshot, Paper, int], list[Text]]] = {
        "live": _overview,
        "curve": _curve,
        "errors": _errors,
        "gpu": _gpus,
        "log": _log,
    }
    head = _head(shot, paper)
    foot = [_keys(name, shot)] if paper.full_screen else []
    room = max(0, paper.height - len(head) - len(foot))
    body = bodies[name](shot, paper, room)[:room]
    if paper.full_screen:
        body += [Text()] * (room - len(body))
    return [_fitted(line, paper) for line in [*head, *body, *foot][: paper.height]]


def _fitted(line: Text, paper: Paper) -> Text:
    """The line as it may be written: without characters that move or command, and no wider than a full screen."""
    if not line.plain.isprintable():
        line.plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line.plain)
    if paper.ascii_only and not line.plain.isascii():
        line.plain = line.plain.encode("ascii", "replace").decode("ascii")
    if paper.full_screen:
        line.truncate(paper.width, overflow="crop" if paper.ascii_only else "ellipsis")
        line.no_wrap, line.overflow = True, "crop"
    return line


def _head(shot: Snapshot, paper: Paper) -> list[Text]:
    view = shot.view
    title = Text(f"{view.command or 'run'} in {view.output_dir}", style="bold")
    state = Text(STATUS_WORDS[view.status], style=_STATUS_STYLES.get(view.status, ""))
    reason = str((view.end or {}).get("reason", "")) if view.status == "failed" else ""
    quiet = shot.problem or silence(view) or reason
    lines = [_beside(title, state, paper.width - cell_len(state.plain))]
    if view.total_steps:
        lines.append(_bar(view.step / view.total_steps, paper))
    lines.append(Text(progress(view)))
    if quiet:
        lines.append(Text(quiet, style="red" if shot.problem or reason else "yellow"))
    if next_step(view):
        lines.append(Text(next_step(view), style="yellow"))
    return lines


def _bar(share: float, paper: Paper) -> Text:
    full, empty = ("#", "-") if paper.ascii_only else ("█", "░")
    done = int(min(max(share, 0.0), 1.0) * paper.width)
    return Text.assemble((full * done, "green"), (empty * (paper.width - done), "dim"))


def _keys(name: str, shot: Snapshot) -> Text:
    line = Text("q", style="bold").append(" quit", style="dim")
    for key, view in KEYS.items():
        style = "reverse" if view == name else "dim"
        line.append("   ").append(key, style="bold").append(" ").append(_KEY_NAMES.get(view, view), style=style)
        if view == "errors" and shot.alert_count:
            line.append(f" ({shot.alert_count:,})", style="yellow")
    return line


# -- the views -----------------------------------------------------------------------------------------------


def _overview(shot: Snapshot, paper: Paper, room: int) -> list[Text]:
    """Figures beside validations, the curve, the machine, the last warnings; what does not fit is left out."""
    left = figures(shot.view)
    columns = _columns(left, validation_rows(shot.view, max(len(left), room // 3)), paper.width)
    machine = _machine_lines(shot, most=max(1, room // 8))
    alerts = _alert_lines(shot, most=max(1, room // 8))
    spare = room - len(columns) - len(machine) - len(alerts)
    curve = _curve(shot, paper, spare) if spare >= _MIN_CURVE else []
    return [*columns, *curve, *machine, *alerts]


def _columns(left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]], width: int) -> list[Text]:
    label = max((len(name) for name, _ in left), default=0) + 2
    rows = [Text.assemble((name.ljust(label), "dim"), value) for name, value in left]
    if width < _LEFT + 30:
        return [*rows, *(Text(text, style=style) for text, style in right[-4:])]
    count = max(len(rows), len(right))
    rows += [Text() for _ in range(count - len(rows))]
    texts = [Text(text, style=style) for text, style in right]
    texts += [Text() for _ in range(count - len(texts))]
    wide = max(_LEFT, min(width - 36, 60))
    return [_beside(row, text, wide) for row, text in zip(rows, texts, strict=True)]


def _curve(shot: Snapshot, paper: Paper, room: int) -> list[Text]:
    losses = Losses(shot.view.losses, shot.view.validations, shot.view.best)
    options = {"single_steps": paper.colour, "ascii_only": paper.ascii_only}
    rows = draw_losses(losses, paper.width, room - 1, **options)
    if not rows:
        return [Text("The loss curve begins with the second step.", style="dim")] if len(losses.train) < 2 else []
    return [_painted([(" " * 10, ""), *legend(losses, **options)]), *(_painted(row) for row in rows)]


def _errors(shot: Snapshot, paper: Paper, room: int) -> list[Text]:
    reasons = list(shot.view.skipped_reasons.items())[: max(1, room // 3)]
    lost = [Text(f"{shot.view.skipped:,} rows or pictures left out", style="yellow" if shot.view.skipped else "dim")]
    lost += [Text(f"{count:>9,}  {reason}") for reason, count in reasons]
    return [*_alert_lines(shot, most=max(1, room - len(lost) - 2)), Text(), *lost]


def _gpus(shot: Snapshot, paper: Paper, room: int) -> list[Text]:
    if shot.gpu.problem:
        lines = [Text(shot.gpu.problem)]
    else:
        header = ["GPU", "name", "used %", "memory GB", "of GB", "temperature C"]
        cells = [[gpu.index, gpu.name, *(_figure(value) for value in _values(gpu))] for gpu in shot.gpu.gpus]
        lines = [Text(line) for line in plain_table(cells, header)]
    process = _process(shot)
    return [*lines, Text(), Text(process)] if process else lines


def _log(shot: Snapshot, paper: Paper, room: int) -> list[Text]:
    if shot.log is None:
        return [Text("There is no log yet.", style="dim")]
    title = Text(str(shot.log), style="dim")
    return [title, *(_log_line(line) for line in list(shot.lines)[-max(1, room - 1) :])]


# -- parts ---------------------------------------------------------------------------------------------------


def _alert_lines(shot: Snapshot, *, most: int) -> list[Text]:
    if not shot.alert_count:
        return [Text("no warnings or errors in the log" if shot.log else "there is no log yet", style="dim")]
    title = Text(f"warnings and errors: {shot.alert_count:,}, in {shot.log}", style="yellow")
    return [title, *(_log_line(line) for line in list(shot.alerts)[-most:])]


def _log_line(line: str) -> Text:
    words = line.split(maxsplit=3)
    kind = words[2] if len(words) > 2 else ""
    bad = kind == "ERROR" or (kind == "end" and ("status=failed" in line or "status=interrupted" in line))
    return Text(line, style="red" if bad else "yellow" if kind == "WARNING" else "")


def _machine_lines(shot: Snapshot, *, most: int) -> list[Text]:
    process = _process(shot)
    if shot.gpu.problem:
        return [Text("   ".join(part for part in (shot.gpu.problem, process) if part), style="dim")]
    lines = [Text(gpu_line(gpu)) for gpu in shot.gpu.gpus[:most]]
    if len(shot.gpu.gpus) > most:
        lines[-1].append(f"   and {len(shot.gpu.gpus) - most} more", style="dim")
    return [*lines, Text(process, style="dim")] if process else lines


def gpu_line(gpu: Gpu) -> str:
    """One GPU in a line; what it does not tell is a dash."""
    use, memory, total, temperature = (_figure(value) for value in _values(gpu))
    return f"GPU {gpu.index} {gpu.name}: {use} % used, {memory} of {total} GB, {temperature} C"


def _values(gpu: Gpu) -> tuple[tuple[float | None, int], ...]:
    return (gpu.utilisation, 0), (gpu.memory_gb, 1), (gpu.memory_total_gb, 1), (gpu.temperature, 0)


def _figure(value: tuple[float | None, int]) -> str:
    number, decimals = value
    return "-" if number is None else f"{number:.{decimals}f}"


def _process(shot: Snapshot) -> str:
    use = shot.process
    if use is None:
        return ""
    cpu = f"{use.cpu:.0f} % CPU, " if use.cpu is not None else ""
    of = f" of {use.ram_gb:.1f}" if use.ram_gb is not None else ""
    return f"process {use.pid}: {cpu}{use.memory_gb:.1f}{of} GB RAM"


def _beside(left: Text, right: Text, width: int) -> Text:
    """Two texts in a line, the second from column ``width`` on."""
    left.truncate(max(1, width - 1), overflow="ellipsis")
    return left.append(" " * max(0, width - cell_len(left.plain))).append_text(right)


def _painted(cells: Sequence[Cell]) -> Text:
    return Text.assemble(*((text, _STYLES.get(mark, "")) for text, mark in cells))
