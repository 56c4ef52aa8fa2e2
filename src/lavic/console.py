"""All printing: results on stdout; progress, notices and warnings on stderr and in the log file.

Colour and a live bar appear only on a terminal; in a pipe, under ``nohup`` and in CI all is plain lines.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from lavic.errors import OutputError
from lavic.rendering import duration, flat, is_number, json_ready, plain_table, printable, shown
from lavic.streams import lasting, result_to

if TYPE_CHECKING:
    import rich.console

# Seconds between two plain progress lines: enough to see life in a log, few enough to read it.
PLAIN_INTERVAL_S = 10.0


class Progress(Protocol):
    """What ``Console.progress`` gives to the code that does the work."""

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count ``n`` more as done; ``fields`` (``loss=0.53``) are shown beside the bar until replaced."""


class Result(Protocol):
    """What every command's run function returns."""

    @property
    def exit_code(self) -> int:
        """0 if done, 1 if done and the answer is no."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """What was achieved: printed as a table, or as the JSON document of ``--json``."""


@dataclass(frozen=True)
class Outcome:
    """A plain ``Result``.

    Args:
        summary: names and values, in the order in which they are printed.
        exit_code: 0 if done, 1 if done and the answer is no.
        next_step: the command to run next, a sentence; the last line of the text output.
        printed: True if the run function has printed its result itself: ``summary`` is for ``--json``.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    next_step: str = ""
    printed: bool = False


class LogFile:
    """A text file to which each line is written at once, with the time; readable with ``tail -f``.

    Args:
        path: the file, made anew or continued; its folder is made.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"the log cannot be written ({error.strerror})", where=str(path)) from None

    def write(self, line: str) -> None:
        """Add a line (several, where the text has several).

        Raises:
            OutputError: the disk is full, for example; the first time only, then the log is closed.
        """
        if self._file.closed:
            return
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        try:
            for part in printable(line).splitlines() or [""]:
                self._file.write(f"{now} {part}\n")
            self._file.flush()
        except OSError as error:
            self.close()
            raise OutputError(f"the log cannot be written ({error.strerror})", where=str(self.path)) from None

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        with contextlib.suppress(OSError):  # lines that could not be written would be tried again
            self._file.close()


class Console:
    """Where a command prints.

    Args:
        json: True keeps stdout for one JSON document; tables and text then go to stderr.
        stdout: stream for results, by default the process's.
        stderr: stream for everything else, by default the process's.
        plain_interval_s: seconds between two progress lines where there is no terminal.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        plain_interval_s: float = PLAIN_INTERVAL_S,
    ) -> None:
        self.json = json
        self.stdout = stdout if stdout is not None else sys.stdout
        self.stderr = lasting(stderr if stderr is not None else sys.stderr)
        self.plain_interval_s = plain_interval_s
        self._logs: list[LogFile] = []
        self._rich: dict[int, rich.console.Console] = {}

    # -- results -------------------------------------------------------------------------------------------

    def print(self, text: str = "") -> None:
        """A line of the result, on stdout (on stderr with ``json``, which leaves stdout to the document)."""
        stream = self.stderr if self.json else self.stdout
        with result_to("stdout"):
            self._line(stream, text)

    def table(self, rows: Sequence[Sequence[object]], *, header: Sequence[str] = (), title: str = "") -> None:
        """A table of the result; numbers are aligned on the right."""
        if title:
            self.print(title)
        stream = self.stderr if self.json else self.stdout
        with result_to("stdout"):
            if stream.isatty():
                self._rich_table(stream, rows, header)
            else:
                for line in plain_table(rows, header):
                    self._line(stream, line)

    def summary(self, values: Mapping[str, object], *, title: str = "") -> None:
        """Names and values as a table of two columns; nested ones are named ``outer.inner``.

        What stands behind the dot, reasons and flags among it, is printed as it is: it can be copied and searched for.
        """
        rows = []
        for key, value in flat(values):
            outer, dot, inner = key.partition(".")
            rows.append([f"{outer.replace('_', ' ')}{dot}{inner}", shown(value)])
        self.table(rows, title=title)

    def document(self, value: object) -> None:
        """The one JSON document of a ``--json`` run, on stdout."""
        text = json.dumps(json_ready(value), indent=2, ensure_ascii=False, allow_nan=False)
        with result_to("stdout"):
            self.stdout.write(text + "\n")
            self.stdout.flush()

    # -- notices -------------------------------------------------------------------------------------------

    def info(self, text: str) -> None:
        """A notice: stderr and log file."""
        self._line(self.stderr, text)
        self.log(text)

    def warn(self, text: str) -> None:
        """Something the user should look at: stderr and log file."""
        self._line(self.stderr, f"Warning: {text}", style="yellow")
        self.log(f"WARNING {text}")

    def error(self, text: str) -> None:
        """Why a command stopped: stderr and log file."""
        self._line(self.stderr, f"Error: {text}", style="red")
        self.log(f"ERROR {text}")

    def log(self, text: str) -> None:
        """A line for the log file only."""
        for log in self._logs:
            log.write(text)

    def attach(self, log: LogFile) -> None:
        """From now on notices also go to ``log``."""
        self._logs.append(log)

    def detach(self, log: LogFile) -> None:
        """Undo ``attach``."""
        if log in self._logs:
            self._logs.remove(log)

    # -- progress ------------------------------------------------------------------------------------------

    @contextmanager
    def progress(self, description: str, total: int | None) -> Iterator[Progress]:
        """A bar on a terminal, a line now and then elsewhere; both show rate, time left and the fields.

        Args:
            description: what is being done, a few words.
            total: how many there are to do; None if unknown.
        """
        if not self.stderr.isatty():
            plain = _PlainProgress(self.info, description, total, self.plain_interval_s)
            yield plain
            plain.close()
            return
        from lavic.progress_bar import live_bar

        with live_bar(self._rich_console(self.stderr), description, total) as bar:
            yield bar

    # -- inside --------------------------------------------------------------------------------------------

    def _line(self, stream: TextIO, text: str, *, style: str = "") -> None:
        text = printable(text)
        try:
            if stream.isatty():
                from rich.text import Text

                # A Text of its own style: `style=` of print would colour a live bar below it as well.
                self._rich_console(stream).print(Text(text, style=style), soft_wrap=True)
            else:
                stream.write(text + "\n")
                stream.flush()
        except UnicodeEncodeError:
            # A terminal or pipe of another encoding (LANG=C): show what can be shown.
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")

    def _rich_console(self, stream: TextIO) -> rich.console.Console:
        # One per stream: a bar and the notices above it must share it, or they overwrite each other.
        if id(stream) not in self._rich:
            import rich.console

            self._rich[id(stream)] = rich.console.Console(file=stream, highlight=False)
        return self._rich[id(stream)]

    def _rich_table(self, stream: TextIO, rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
        import rich.box
        from rich.table import Table
        from rich.text import Text

        width = max([len(header), *(len(row) for row in rows)], default=0)
        table = Table(box=rich.box.SIMPLE_HEAD, show_header=bool(header))
        for column in range(width):
            numeric = all(is_number(row[column]) for row in rows if column < len(row))
            name = Text(printable(header[column])) if column < len(header) else ""
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(shown(cell))) for cell in row))
        self._rich_console(stream).print(table)


class _PlainProgress:
    """Progress without a terminal: a line at the start of each interval, and one at the end."""

    def __init__(self, write: Callable[[str], None], description: str, total: int | None, interval_s: float) -> None:
        self._write, self._description, self._total, self._interval_s = write, description, total, interval_s
        self._done, self._said_at = 0, 0
        self._started = self._last = time.monotonic()
        self._fields: dict[str, object] = {}

    def advance(self, n: int = 1, **fields: object) -> None:
        self._done += n
        self._fields.update(fields)
        now = time.monotonic()
        if now - self._last >= self._interval_s:
            self._last = now
            self._say()

    def close(self) -> None:
        if self._done != self._said_at:
            self._say()

    def _say(self) -> None:
        self._said_at = self._done
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds > 0 else 0.0
        parts = [f"{self._done}/{self._total}" if self._total is not None else str(self._done)]
        parts.append(f"{rate:.3g}/s")
        if self._total is not None and 0 < self._done < self._total and rate > 0:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        parts += [f"{name} {shown(value)}" for name, value in self._fields.items()]
        self._write(f"{self._description}: {', '.join(parts)}")
