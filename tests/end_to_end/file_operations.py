"""Every change that a process makes to files, counted; and the end of the process, or of the disk, at one of them."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

# No process has it: numbers end at 2**22. What a dead process leaves must look like a dead process's.
DEAD_PID = 2**22 + 7

#: Kinds that a full disk refuses; deleting and cutting off need no room.
NEEDS_SPACE = frozenset({"open", "write", "fsync", "replace", "mkdir"})


class Killed(BaseException):
    """The process is dead from here on: whatever its code still tries to do to files does not happen."""


class FileOperations:
    """Operations on files below a folder, in their order.

    A kill happens in front of operation ``kill_at``. Every later one fails in the same way, so that no ``finally``
    and no destructor can tidy up what a killed process would have left.

    Args:
        root: what lies elsewhere is left alone.
        kill_at: number of the operation (from 0) in front of which the process dies. Its number is ``DEAD_PID``.
        torn: it dies in the middle of that operation, if it is a write: half the bytes get there.
        full_at: number of the operation from which on the disk is full.

    Attributes:
        seen: "kind name" of each operation, with the name relative to ``root``.
    """

    def __init__(
        self, root: Path, *, kill_at: int | None = None, torn: bool = False, full_at: int | None = None
    ) -> None:
        self.root = os.path.realpath(root)
        self.kill_at, self.torn, self.full_at = kill_at, torn, full_at
        self.seen: list[str] = []
        self.dead = False
        self._paths: dict[int, str] = {}
        self._files: list[_WatchedFile] = []
        self._descriptors: set[int] = set()
        self._real_open, self._real_os_open, self._real_os_close = io.open, os.open, os.close

    # -- what happens ----------------------------------------------------------------------------------------

    def happens(self, kind: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """Count an operation that is about to be done, or fail in its place."""
        if self.dead:
            raise Killed
        number = len(self.seen)
        self.seen.append(f"{kind} {os.path.relpath(path, self.root)}")
        if number == self.kill_at:
            self.dead = True
            if self.torn:
                half()
            raise Killed
        if self.full_at is not None and number >= self.full_at and kind in NEEDS_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _below_root(self, path: object) -> str:
        """The path if it counts, else ""."""
        if isinstance(path, int):
            return self._paths.get(path, "")
        if not isinstance(path, str | os.PathLike):
            return ""
        whole = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))  # noqa: PTH118, PTH119, PTH120
        return whole if whole.startswith(self.root + os.sep) else ""

    # -- the functions put in place --------------------------------------------------------------------------

    def open(self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
        """In the place of ``open``: files that can be written count what reaches them."""
        path = self._below_root(file) if set(mode) & set("wax+") else ""
        if not path:
            return self._real_open(file, mode, buffering, *more, **named)
        self.happens("open", path)
        raw = _WatchedFile(self, path, mode.replace("b", "").replace("t", ""))
        self._files.append(raw)
        self._paths[raw.fileno()] = path
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **named)

    def os_open(self, path: Any, flags: int, *more: Any, **named: Any) -> int:
        """In the place of ``os.open``."""
        below = self._below_root(path)
        changes = below and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if changes:
            self.happens("open", below)
        descriptor = self._real_os_open(path, flags, *more, **named)
        self._paths[descriptor] = below
        if changes:
            self._descriptors.add(descriptor)
        return descriptor

    def os_close(self, descriptor: int) -> None:
        """In the place of ``os.close``."""
        self._descriptors.discard(descriptor)
        self._real_os_close(descriptor)

    def watched(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """A function of ``os`` whose first argument is a path or a descriptor."""

        def call(path: Any, *more: Any, **named: Any) -> Any:
            below = self._below_root(path)
            if not below and named.get("dir_fd") is not None:  # as in shutil.rmtree
                below = os.path.join(self._below_root(named["dir_fd"]), str(path))  # noqa: PTH118
            if below:
                self.happens(kind, below)
            return real(path, *more, **named)

        return call

    @contextmanager
    def active(self) -> Iterator[None]:
        """Count while the block runs; a kill ends the block, as it would end the process."""
        kinds = {"fsync": "fsync", "ftruncate": "truncate", "truncate": "truncate", "pwrite": "write", "write": "write"}
        kinds |= {"replace": "replace", "rename": "replace", "link": "replace", "symlink": "replace"}
        kinds |= {"unlink": "unlink", "remove": "unlink", "rmdir": "rmdir", "mkdir": "mkdir"}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(builtins, "open", self.open)
            patched.setattr(io, "open", self.open)
            patched.setattr(os, "open", self.os_open)
            patched.setattr(os, "close", self.os_close)
            for name, kind in kinds.items():
                # A kill, unlike a crash of the machine, does not ask what has reached the disk: no wait for it.
                real = (lambda *_: None) if name == "fsync" else getattr(os, name)
                patched.setattr(os, name, self.watched(kind, real))
            if self.kill_at is not None:
                patched.setattr(os, "getpid", lambda: DEAD_PID)
            with suppress(Killed):
                yield
        # As the system does: locks are dropped, and what Python still holds back gets nowhere.
        for file in self._files:
            io.FileIO.close(file)
        for descriptor in self._descriptors:
            os.close(descriptor)


class _WatchedFile(io.FileIO):
    """A file whose writes are counted where they reach the system, behind Python's own buffers."""

    def __init__(self, operations: FileOperations, path: str, mode: str) -> None:
        self._operations, self._path = operations, path
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        size = len(data)
        self._operations.happens("write", self._path, lambda: super(_WatchedFile, self).write(bytes(data)[: size // 2]))
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self._operations.happens("truncate", self._path)
        return super().truncate(size)
