"""Output folders: one writer at a time, and nothing replaced that lavic did not write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from lavic.errors import OutputError

LOCK_NAME = ".lavic.lock"

_PART = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]+)\.part")
_PROBE = "probe"
_OTHER_FOLDER = "Choose another --output-dir."

# Start times are told in hundredths of a second, and two clocks are compared.
_CLOCK_SLACK_S = 0.1

# Open locks of this process. A forked child (a data worker) shares them, and would keep a folder locked
# after its parent was killed; so children close them.
_held: set[int] = set()
_fork_hook_set = False


def part_of(path: Path) -> Path:
    """The name beside ``path`` under which this process writes what is to become it: ``.NAME.<pid>.part``."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def output_error(path: Path, error: OSError) -> OutputError:
    """The sentence for a file or folder that the system would not let lavic write."""
    remedy = "Free some space and run again." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return OutputError(f"cannot be written ({error.strerror or error})", where=str(path), remedy=remedy)


class FolderLock:
    """A folder that only this process writes to while the block runs.

    The system drops the lock with the process, however it ends, so a killed run blocks nobody; the file
    ``.lavic.lock`` itself stays and means nothing.

    Raises:
        OutputError: another run holds the folder, or it cannot be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        _make_folder(self.folder)
        _close_in_children()
        path = self.folder / LOCK_NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"another run (process {holder})" if holder else "another run"
            remedy = "Wait until it ends, or name another folder."
            raise OutputError(f"{who} is writing here", where=str(self.folder), remedy=remedy) from error
        except OSError as error:
            os.close(descriptor)
            raise output_error(path, error) from error
        self._descriptor = descriptor
        _held.add(descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or descriptor not in _held:
            return
        _held.discard(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _close_in_children() -> None:
    global _fork_hook_set
    if not _fork_hook_set:
        os.register_at_fork(after_in_child=_drop_inherited)
        _fork_hook_set = True


def _drop_inherited() -> None:
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


def prepare_output(
    folder: Path,
    *,
    resume: bool,
    overwrite: bool,
    known: Iterable[str],
    holds: str = "",
    can_resume: bool = True,
) -> None:
    """Make an output folder ready, or say why a run must not start there.

    Args:
        folder: made, with its parents, if it is missing.
        resume: go on in a folder that holds a run; nothing is deleted.
        overwrite: delete what ``known`` names, and nothing else, before the run starts.
        known: names or patterns (``val_metrics_epoch_*.txt``) that the command writes in the folder itself;
            a folder among them is deleted with what it holds. They go in this order, so what says that there
            is a run should stand first: a kill in between must not leave it without its results.
        holds: what to say about the folder when it is refused, for example "a run at epoch 1, step 850".
        can_resume: whether the command has a flag --resume to recommend.

    Raises:
        OutputError: the folder is not empty and neither flag is given, is a file, or cannot be written.
    """
    folder = Path(folder)
    patterns = tuple(known)
    assert not any("/" in pattern or pattern in ("", "*") for pattern in patterns), patterns
    check_output(folder, resume=resume, overwrite=overwrite, holds=holds, can_resume=can_resume)
    _clear(folder, patterns, overwrite=overwrite)


def check_output(folder: Path, *, resume: bool, overwrite: bool, holds: str = "", can_resume: bool = True) -> None:
    """The first half of ``prepare_output``: make the folder or say why not, and delete nothing."""
    if resume and overwrite:
        raise OutputError("--resume and --overwrite exclude each other", remedy="Give one of them.")
    _make_folder(folder)
    _probe(folder)
    entries = contents(folder)
    if entries and not resume and not overwrite:
        names = ", ".join(path.name for path in entries[:3]) + (", ..." if len(entries) > 3 else "")
        found = holds or f"{len(entries)} files or folders already ({names})"
        ways = "Continue with --resume, replace it with" if can_resume else "Replace it with"
        remedy = f"{ways} --overwrite, or choose another --output-dir."
        raise OutputError(f"{folder}/ holds {found}", remedy=remedy)


def prepare_marked(folder: Path, marker: str, outputs: tuple[str, ...], holds: str, *, overwrite: bool) -> None:
    """Make an output folder ready that is replaced only where a marker says that the command itself made it.

    Args:
        marker: a file of the command's own that says what it did; the first of ``outputs``, so that it goes first.
        outputs: names of all that the command writes in the folder.
        holds: what to call its earlier result.
        overwrite: replace it.

    Raises:
        OutputError: the folder holds something, and it is not to be replaced or was not made by the command.
    """
    check_marked(folder, marker, outputs, holds, overwrite=overwrite)
    clear_marked(folder, outputs, overwrite=overwrite)


def check_marked(folder: Path, marker: str, outputs: tuple[str, ...], holds: str, *, overwrite: bool) -> None:
    """The first half of ``prepare_marked``: refuse, and delete nothing."""
    assert outputs[0] == marker, outputs
    made = (folder / marker).exists()
    if overwrite and not made and any((folder / name).exists() for name in outputs):
        # train_images/ may be days of crawling.
        problem = "the folder holds data that this command did not make, so it is not replaced"
        raise OutputError(problem, where=str(folder), remedy="Choose another --output-dir.")
    check_output(folder, resume=False, overwrite=overwrite, holds=holds if made else "", can_resume=False)


def clear_marked(folder: Path, outputs: tuple[str, ...], *, overwrite: bool) -> None:
    """The second half of ``prepare_marked``: delete what an earlier run, or a killed one, left."""
    _clear(folder, outputs, overwrite=overwrite)


def _clear(folder: Path, patterns: tuple[str, ...], *, overwrite: bool) -> None:
    """Delete halves that killed runs left of what ``patterns`` name; with ``overwrite``, the results too."""
    found = sorted(folder.iterdir())
    for path in found:
        half_of = _leftover(path)
        if any(fnmatch.fnmatchcase(half_of, pattern) for pattern in (*patterns, _PROBE)):
            _delete(path)
    for pattern in patterns:
        for path in found:
            if not fnmatch.fnmatchcase(path.name, pattern):
                continue
            if overwrite:
                _delete(path)
            elif path.is_dir() and not path.is_symlink():
                for half in filter(_leftover, sorted(path.iterdir())):
                    _delete(half)


def contents(folder: Path) -> list[Path]:
    """What is in a folder apart from the lock and from halves that killed runs left, by name."""
    return [path for path in sorted(folder.iterdir()) if path.name != LOCK_NAME and not _leftover(path)]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        blocking = next(path for path in (folder, *folder.parents) if path.is_symlink() or path.exists())
        kind = "a link to a folder that does not exist" if not blocking.exists() else "a file, not a folder"
        raise OutputError(f"is {kind}", where=str(blocking), remedy=_OTHER_FOLDER) from error
    except OSError as error:
        problem = f"the folder cannot be made ({error.strerror or error})"
        raise OutputError(problem, where=str(folder), remedy=_OTHER_FOLDER) from error


def _probe(folder: Path) -> None:
    """Find out by writing: permission bits say nothing about read-only mounts, quotas or root."""
    path = part_of(folder / _PROBE)
    try:
        path.write_bytes(b"lavic\n")
        path.unlink()
    except OSError as error:
        problem = f"the folder cannot be written to ({error.strerror or error})"
        raise OutputError(problem, where=str(folder), remedy=_OTHER_FOLDER) from error


def _leftover(path: Path) -> str:
    """The name that a half-written file was meant to get, if the process that wrote it is gone; else ""."""
    match = _PART.fullmatch(path.name)
    if match is None or _may_be_writing(int(match["pid"]), path):
        return ""
    return match["name"]


def _may_be_writing(pid: int, path: Path) -> bool:
    """Whether a file's writer still runs: a process of its number does, and was there before the file.

    In a container every run may have the same number.
    """
    born = process_born(pid)
    if born is None:
        return False
    try:
        changed = path.lstat().st_mtime
    except OSError:
        return False
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - born / os.sysconf("SC_CLK_TCK")
    return changed >= time.time() - age_s - _CLOCK_SLACK_S


def process_born(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None without ``/proc`` or such a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets and may hold spaces; the 22nd is the start time.
    fields = text[text.rfind(")") + 1 :].split()
    return int(fields[19]) if len(fields) > 19 else None


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # of a link, the link only; two patterns may name it
    except OSError as error:
        problem = f"cannot be deleted ({error.strerror or error})"
        raise OutputError(problem, where=str(path), remedy=_OTHER_FOLDER) from error
