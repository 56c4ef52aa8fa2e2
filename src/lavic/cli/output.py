"""What a command ends with: a result or an error, as text or as JSON, and the exit code.

0 done; 1 done, but the answer is no; 2 wrong input or usage; 130 interrupted; 70 a defect of lavic.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from lavic.console import Console, Result
from lavic.errors import LavicError

EXIT_DONE = 0
EXIT_WRONG_INPUT = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130


def execute(
    load: Callable[[], Any],
    run: Callable[[], Callable[[Any, Console], Result]],
    console: Console,
    *,
    go_on: str = "",
) -> int:
    """Run a command and print how it ended.

    Args:
        load: makes the settings; its errors are the user's.
        run: imports and returns the run function; called after ``load``: wrong flags are answered at once.
        console: where to print.
        go_on: how to continue after an interruption, a sentence.

    Returns:
        The exit code.
    """
    try:
        settings = load()
        result = run()(settings, console)
        show(result, console)
    except LavicError as error:
        return _report(error, console)
    except KeyboardInterrupt:
        console.error(f"interrupted. {go_on}".strip())
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return nobody_reads()  # here: Typer would make the exit code 1 of it, which is an answer
    except Exception as error:
        return _report_defect(error, console)
    return result.exit_code


def nobody_reads() -> int:
    """The reader of stdout went away (``lavic ... | head``); returns the exit code."""
    # Python would complain again when it flushes at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_INTERRUPTED


def show(result: Result, console: Console) -> None:
    """Print a result on stdout."""
    if console.json:
        console.document(result.summary)
        return
    if result.summary and not getattr(result, "printed", False):
        console.summary(result.summary)
    next_step = getattr(result, "next_step", "")
    if next_step:
        console.print(next_step)


def _report(error: LavicError, console: Console) -> int:
    console.error(error.sentence)
    if console.json:
        parts = {"where": error.where, "problem": error.problem, "remedy": error.remedy}
        console.document({"error": {**parts, "exit_code": error.exit_code}})
    return error.exit_code


def _report_defect(error: Exception, console: Console) -> int:
    trace = "".join(traceback.format_exception(error))
    console.error(f"lavic failed in a way it should not: {type(error).__name__}: {error}")
    console.info(trace.rstrip())
    console.info("This is a defect of lavic: please report these lines and what `lavic --version` prints.")
    if console.json:
        problem = f"{type(error).__name__}: {error}"
        console.document({"error": {"where": "", "problem": problem, "exit_code": EXIT_DEFECT}})
    return EXIT_DEFECT
