"""``lavic monitor``: the run in a folder, as it is or as it goes on."""

from __future__ import annotations

import os

from lavic.console import Console, Outcome
from lavic.monitor.config import MonitorSettings
from lavic.monitor.figures import STATUS_WORDS, next_step, progress
from lavic.monitor.log_tail import LogTail
from lavic.monitor.summary import run_lines, run_values
from lavic.training.run_view import RunReader, RunView


def run(settings: MonitorSettings, console: Console) -> Outcome:
    """Show where the run stands; that there is none yet is an answer too, not an error.

    Raises:
        InputError: the output folder is a file, or the run in it or the folder of the logs cannot be read.
    """
    reader = RunReader(settings.output_dir)
    view = reader.look()
    if view.status == "none":
        console.print(f"No run in {settings.output_dir} yet.")
        start = "Start one with ./run_training.sh or `lavic distill`; `lavic demo` shows a small one."
        return Outcome(run_values(view, _tail(settings, view)), next_step=start, printed=True)
    name = chosen_view(settings, console)
    if name == "summary":
        return _summary(settings, view, console)
    if name == "follow":
        return _follow(settings, reader, console)
    return _watch(settings, reader, name, console)


def chosen_view(settings: MonitorSettings, console: Console) -> str:
    """The view that was asked for; without a word, the live one where it can be shown."""
    if console.json:
        return "summary"
    if settings.follow:
        return "follow"
    if settings.view is not None:
        return settings.view
    return "live" if shows_screens(console) and not settings.once else "summary"


def shows_screens(console: Console) -> bool:
    """Whether stdout is a terminal that can clear its screen and move its cursor."""
    return console.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def _tail(settings: MonitorSettings, view: RunView) -> LogTail:
    tail = LogTail(settings.log_dir)
    tail.look(view)
    return tail


def _summary(settings: MonitorSettings, view: RunView, console: Console) -> Outcome:
    tail = _tail(settings, view)
    for line in run_lines(view, tail):
        console.print(line)
    return Outcome(run_values(view, tail), next_step=next_step(view), printed=True)


def _follow(settings: MonitorSettings, reader: RunReader, console: Console) -> Outcome:
    from lavic.monitor.follow import follow_log

    tail = LogTail(settings.log_dir)
    view = follow_log(reader, tail, settings.interval, console, once=settings.once)
    if tail.path is None:
        console.info(f"No log in {settings.log_dir} yet.")
    console.info(f"-- {STATUS_WORDS[view.status]}, {progress(view)} --")
    return Outcome(printed=True)


def _watch(settings: MonitorSettings, reader: RunReader, name: str, console: Console) -> Outcome:
    # Rich is loaded only for what is drawn.
    from lavic.monitor.live import Watch, print_once, show_live

    watch = Watch(reader, LogTail(settings.log_dir))
    try:
        if settings.once or not shows_screens(console):
            print_once(watch, name, console)
            return Outcome(printed=True)
        view = show_live(watch, name, settings.interval, console).view
    finally:
        watch.close()
    console.print(f"{view.command or 'run'} in {view.output_dir}: {STATUS_WORDS[view.status]}, {progress(view)}")
    return Outcome(next_step=next_step(view), printed=True)
