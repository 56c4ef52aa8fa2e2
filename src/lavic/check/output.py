"""Where the run will write: room, permission, and what is there already; nothing is made or changed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from lavic.check.findings import Counts, Finding, gigabytes, no_go, ok, plural, refused, warning
from lavic.check.model import ModelFacts
from lavic.distill.config import DistillSettings
from lavic.errors import LavicError, system_words
from lavic.folders import LOCK_NAME, contents
from lavic.training.checkpoints import read_state
from lavic.training.identity import check_same_run
from lavic.training.picture_cache import PictureCache
from lavic.training.run_log import SKIPPED_FILE
from lavic.training.runs import LOST_CHECKPOINT, has_finished
from lavic.training.settings import TrainingSettings

_OTHER = "Choose another --output_dir."
#: Bytes a step in events.jsonl, TensorBoard and the text log together (counted: 250 + 450 + 200).
STEP_BYTES = 900
#: Model card, configuration, versions, validations.
SMALL_FILES = 1_000_000
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

S = TypeVar("S", bound=TrainingSettings)


def folder(settings: S, known_identity: Callable[[S], dict[str, str]]) -> Finding:
    """Whether the run would begin in ``--output_dir``, go on there, or be refused.

    Args:
        settings: those of the run itself.
        known_identity: the command's own: what must be the same for a resumed run.
    """
    path = settings.output_dir
    blocked = not_writable(path)
    if blocked:
        return no_go("output folder", blocked, remedy=_OTHER)
    if not path.is_dir():
        return ok("output folder", f"{path}: will be made")
    holder = _held_by(path)
    if holder:
        remedy = "Wait until it ends, or choose another --output_dir."
        return no_go("output folder", f"{path}: {holder} is writing there", remedy=remedy)
    entries = [entry.name for entry in contents(path)]
    if not entries or entries == [SKIPPED_FILE]:
        return ok("output folder", f"{path}: empty")
    if settings.overwrite:
        return ok("output folder", f"{path}: holds {len(entries)} files or folders; --overwrite replaces a run there")
    return _of_a_run(settings, entries, known_identity)


def _of_a_run(settings: S, entries: list[str], known_identity: Callable[[S], dict[str, str]]) -> Finding:
    """A folder that is not empty, without ``--overwrite``."""
    path = settings.output_dir
    try:
        state = read_state(path)
        if state is None and has_finished(path):
            return no_go(
                "output folder", f"{path}: holds {LOST_CHECKPOINT}", remedy=f"Replace it with --overwrite. {_OTHER}"
            )
        if state is None:
            names = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
            if settings.resume:
                found = f"{path}: holds no checkpoint to go on from ({names}); --resume would begin anew"
                return warning("output folder", found, remedy="If a run should be there, look at --output_dir.")
            remedy = f"Replace what a run left there with --overwrite. {_OTHER}"
            return no_go("output folder", f"{path}: is not empty ({names})", remedy=remedy)
        where = f"{path}: holds a run at step {state.step:,}" + (" (finished)" if state.finished else "")
        if not settings.resume:
            remedy = f"Go on with --resume, replace it with --overwrite, or {_OTHER[0].lower()}{_OTHER[1:]}"
            return no_go("output folder", where, "the run would be refused", remedy=remedy)
        remarks: list[str] = []
        check_same_run(state, known_identity(settings), path, remarks.append, whole=False)
    except LavicError as error:
        return refused("output folder", error)
    if state.finished:
        return warning("output folder", where, remedy="There is nothing to go on with: --overwrite trains it again.")
    return ok("output folder", where, "--resume goes on there")


def log_folder(settings: TrainingSettings) -> Finding:
    """Whether the text log can be written."""
    blocked = not_writable(settings.log_dir)
    if blocked:
        return no_go("log folder", blocked, remedy="Choose another --log_dir.")
    return ok("log folder", str(settings.log_dir))


def not_writable(path: Path) -> str:
    """Why no file can be made in a folder (that may not be there yet), or "".

    It is tried with a file without a name, which nobody sees and which leaves nothing; permission bits say nothing
    about read-only mounts, quotas or root.
    """
    absolute, existing = Path.cwd() / path, existing_part(path)
    # Each name by itself too: below a folder that is not there yet the system does not look at it.
    for each in (absolute, *(existing / name for name in absolute.relative_to(existing).parts)):
        problem = _impossible(each)
        if problem:
            return f"{path}: the folder cannot be made ({problem})"
    if not existing.is_dir():
        broken = existing.is_symlink() and not existing.exists()
        return f"{existing}: is {'a link to a folder that does not exist' if broken else 'a file, not a folder'}"
    try:
        os.close(os.open(existing, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            return f"{existing}: cannot be written to ({error.strerror})"
        if not os.access(existing, os.W_OK | os.X_OK):
            return f"{existing}: cannot be written to"
    return ""


def existing_part(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    absolute = Path.cwd() / path
    return next(part for part in (absolute, *absolute.parents) if _is_there(part))


def _is_there(path: Path) -> bool:
    """Whether there is something of this name, as far as one may know."""
    try:
        return path.is_symlink() or path.exists()
    except (OSError, ValueError):
        return False


def _impossible(path: Path) -> str:
    """Why there can be nothing of this name, or ""."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        return system_words(error)
    return ""


def _held_by(path: Path) -> str:
    """Which run holds a folder's lock, or ""; the lock is only asked for, not kept."""
    try:
        descriptor = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return f"another run (process {holder})" if holder else "another run"
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


def picture_cache(settings: DistillSettings, facts: ModelFacts, pictures: Iterable[Path]) -> Finding:
    """Room for those of the cut pictures that are not there yet."""
    assert settings.picture_cache is not None, "called where there is one"
    blocked = not_writable(settings.picture_cache)
    if blocked:
        return no_go("picture cache", blocked, remedy="Choose another --picture_cache.")
    place = existing_part(settings.picture_cache)
    cache = PictureCache(settings.picture_cache, facts.base.view_size, facts.base.family.views, make=False)
    missing = cache.missing(pictures)
    need, free = missing * cache.picture_bytes, shutil.disk_usage(place).free
    found = f"{gigabytes(free)} free at {place}; {plural(missing, 'cut picture')} take up to {gigabytes(need)}"
    if need > free:
        return no_go("picture cache", found, remedy="Give a folder on a larger disk, or leave --picture_cache away.")
    return ok("picture cache", found)


def disk_need(trainable: int, steps: int) -> float:
    """Bytes that a run writes at most that trains so many parameters."""
    adapter, checkpoint = 4 * trainable, 3 * 4 * trainable  # fp32; the weights and AdamW's two moments of each
    # Each is written beside the one that it replaces.
    return 2 * adapter + 2 * checkpoint + steps * STEP_BYTES + SMALL_FILES


def disk(settings: TrainingSettings, trainable: int | None, steps: int) -> tuple[Finding, Counts]:
    """Room at ``--output_dir``.

    Args:
        trainable: parameters that the run trains; None if they are not known, without the model.
    """
    place = existing_part(settings.output_dir)
    free, need = shutil.disk_usage(place).free, disk_need(trainable or 0, steps)
    found = [f"{gigabytes(free)} free at {place}; the run writes up to {gigabytes(need)}"]
    if trainable is None:
        found.append("without adapter and checkpoint: their size is not known without the model")
    counts = {"free_bytes": free, "needed_bytes": int(need)}
    remedy = f"Free some space, or {_OTHER[0].lower()}{_OTHER[1:]}"
    if free < need:
        return no_go("disk", *found, remedy=remedy), counts
    if free < 3 * need:
        return warning("disk", *found, remedy=f"It is tight. {remedy}"), counts
    return ok("disk", *found), counts
