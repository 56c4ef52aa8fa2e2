"""The text log of a run: which file it is, its last lines, and its warnings and errors."""

from __future__ import annotations

import fnmatch
import re
from collections import deque
from pathlib import Path

from lavic.errors import InputError, system_words
from lavic.rendering import printable
from lavic.training.growing_file import GrowingFile
from lavic.training.run_view import RunView

KEPT_LINES = 200
# What lavic.console and lavic.training.run_log write behind the time.
_ALERT = re.compile(r"^[0-9: -]{19} (WARNING |ERROR |end .*status=(failed|interrupted))")


class LogTail:
    """The log of the run that is looked at; when another run begins, the log of that one.

    Attributes:
        path: the log; None while there is none.
        lines: its last lines.
        alerts: the last of its lines that warn, or tell of an error.
        alert_count: how many of these there were in all.
    """

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.path: Path | None = None
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.alerts: deque[str] = deque(maxlen=KEPT_LINES)
        self.alert_count = 0
        self._file: GrowingFile | None = None

    def look(self, view: RunView) -> list[str]:
        """Read on; the new lines, as they may be shown.

        Raises:
            InputError: there is a log, but it cannot be read.
        """
        path = log_of(view, self.log_dir)
        if path is not None and path != self.path:
            self.path, self._file = path, GrowingFile(path)
            self._clear()
        if self._file is None:
            return []
        growth = self._file.read()
        if growth.restarted:
            self._clear()
        new = [printable(line).replace("\t", "    ") for line in growth.lines]
        self.lines.extend(new)
        alerts = [line for line in new if _ALERT.match(line)]
        self.alerts.extend(alerts)
        self.alert_count += len(alerts)
        return new

    def _clear(self) -> None:
        self.lines.clear()
        self.alerts.clear()
        self.alert_count = 0


def log_of(view: RunView, log_dir: Path) -> Path | None:
    """The text log of a run: the one it named, else the one that was begun last.

    Raises:
        InputError: ``log_dir`` cannot be read.
    """
    if view.log_file:
        named = Path(view.log_file)
        # A run names its log as seen from the folder that it was started in, which may be another than ours.
        for path in (named, log_dir / named.name):
            if _is_file(path):
                return path
    return newest_log(log_dir)


def newest_log(log_dir: Path) -> Path | None:
    """The text log that was begun last; their names sort by time.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        # Not `glob`, which takes a folder that one may not read for an empty one.
        names = fnmatch.filter((path.name for path in log_dir.iterdir()), "training_*.log")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({system_words(error)})", where=str(log_dir)) from error
    return log_dir / max(names) if names else None


def _is_file(path: Path) -> bool:
    """Whether it is known to be one: a run's own name for its log may be an impossible one here."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
