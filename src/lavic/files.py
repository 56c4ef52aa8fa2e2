"""Files written whole or not at all, JSONL that survives a kill, and names that come from data.

Whoever writes a result goes through ``atomic_path``: a reader sees the old file or the new one, never a half.
Whoever opens a file of the user goes through ``open_regular``: a pipe in its place cannot hang the run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from lavic.errors import InputError
from lavic.folders import FolderLock, output_error, part_of, prepare_marked, prepare_output

__all__ = [
    "FolderLock",
    "append_jsonl",
    "atomic_path",
    "json_line",
    "open_regular",
    "output_error",
    "part_of",
    "prepare_marked",
    "prepare_output",
    "read_json",
    "read_jsonl",
    "remove_file",
    "safe_join",
    "safe_name",
    "sha256_file",
    "sync",
    "sync_path",
    "write_atomic",
    "write_json",
]

# 255 bytes is what ext4, XFS and NTFS allow; the rest is room for ".NAME.<pid>.part".
MAX_NAME_BYTES = 230

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
_TAIL_BLOCK = 64 * 1024


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; when the block ends well, the file there becomes ``path``.

    The name is ``.NAME.<pid>.part``. It is removed when the block fails; after a kill it stays, under a name
    that nothing takes for a result, until ``prepare_output`` clears it away.

    Raises:
        OutputError: the disk is full or read-only, or ``path`` cannot be replaced.
    """
    path = Path(path)
    part = part_of(path)
    try:
        yield part
        sync_path(part)
        part.replace(path)
        sync_path(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        # An OSError about some other file, raised inside the block, is the caller's to explain.
        if isinstance(error, OSError) and (
            error.errno in _DISK_TROUBLE or error.filename in (str(part), part, str(path))
        ):
            raise output_error(path, error) from error
        raise


def sync_path(path: Path) -> None:
    """Bring a file, or the names in a folder, onto the disk: a rename may reach it before the contents do."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Bring what is open onto the disk; where the file system knows no such thing, what was written must do."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot, above all not a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8), whole or not at all."""
    with atomic_path(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: Path, obj: Any) -> None:
    """Write ``obj`` as indented JSON.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    write_atomic(path, json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        InputError: no readable file, not UTF-8, or not JSON; line and column are named.
    """
    with open_regular(path) as stream:
        data = stream.read()
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", where=f"{path}, byte {error.start}") from error
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise InputError(f"the file is not valid JSON ({error.msg})", where=where) from error
    except (RecursionError, ValueError) as error:
        # Beyond syntax: brackets nested by the thousand, integers of more than 4,300 digits.
        raise InputError(
            "the file nests too deeply, or holds too long a number, to be read", where=str(path)
        ) from error


def json_line(row: Mapping[str, Any], *, ascii_only: bool = False) -> bytes:
    """One row of a JSONL file, with its line end, in the byte conventions of ``json.dumps``."""
    try:
        return (json.dumps(row, ensure_ascii=ascii_only) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        # Half a surrogate pair, read from "\ud83d", has no UTF-8 form; only the escape can say it.
        return (json.dumps(row, ensure_ascii=True) + "\n").encode("ascii")


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row in one write, after clearing away half a row that a kill left at the end.

    Raises:
        OutputError: the file cannot be opened or written.
    """
    try:
        with Path(path).open("a+b", buffering=0) as stream:
            _mend_tail(stream)
            stream.write(json_line(row))
    except OSError as error:
        raise output_error(path, error) from error


def _mend_tail(stream: Any) -> None:
    """Let a file end with a line end: complete a whole last row, cut off half a one."""
    size = stream.seek(0, os.SEEK_END)
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        step = min(_TAIL_BLOCK, start)
        start -= step
        stream.seek(start)
        tail = stream.read(step) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return
    if _whole_row(last) is None:
        stream.truncate(size - len(last))
    else:
        stream.write(b"\n")


def _whole_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file that lavic wrote; half a row at the end, left by a kill, is passed over.

    Raises:
        InputError: no readable file, or a row before the last is not a JSON object; the line is named.
    """
    with open_regular(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            row = _whole_row(line)
            if row is not None:
                yield row
            elif line.endswith(b"\n"):
                raise InputError("the line is not a JSON object", where=f"{path}, line {number}")


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading its bytes, at once or not at all.

    A pipe, a terminal or a device is refused instead of waited for: the type is asked of the opened file, so
    that nobody can exchange it in between.

    Raises:
        InputError: ``problem`` says why in a few words, ``where`` is the path.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InputError(_why_not_open(Path(path), error), where=str(path)) from error
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    raise InputError(f"this is {names.get(stat.S_IFMT(kind), 'a device')}, not a file", where=str(path))


def _why_not_open(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "this is not a possible file name"
    if isinstance(error, FileNotFoundError):
        return "this is a link to a file that does not exist" if path.is_symlink() else "the file does not exist"
    if error.errno == errno.ENXIO:
        return "this is a socket, not a file"
    return f"the file cannot be opened ({error.strerror or error})"


def safe_name(name: object) -> str:
    """Give a file name that came from data back, if it can name a file in a folder and nothing else.

    Raises:
        InputError: empty, a path, hidden, too long, or with characters that no file name should hold;
            ``problem`` is one of a few fixed reasons.
    """
    if not isinstance(name, str):
        raise InputError("the name is not text", where=type(name).__name__)
    problem = _name_problem(name)
    if problem:
        raise InputError(problem, where=repr(name[:80]))
    return name


def _name_problem(name: str) -> str:
    if not name.strip():
        return "the name is empty"
    if "/" in name or "\\" in name:
        return "the name holds a path separator"
    if name.startswith("."):
        return "the name starts with a dot"
    # Not printable: NUL, control characters, line separators, text direction marks, half a surrogate pair.
    if not name.isprintable():
        return "the name holds a control or invisible character"
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return f"the name is longer than {MAX_NAME_BYTES} bytes"
    return ""


def remove_file(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        OutputError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def safe_join(folder: Path, name: object) -> Path:
    """``folder / name`` for a name that came from data; also refuses a link that leads out of the folder.

    Raises:
        InputError: as ``safe_name``, or the link's target lies elsewhere.
    """
    path = Path(folder) / safe_name(name)
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise InputError("the name is a link that leads out of its folder", where=repr(path.name[:80]))
    return path
