"""Several picture processes, each given some pictures ahead; one that dies takes no more than one picture with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavic.crawl.failures import CrawlFailure
from lavic.crawl.frames import PREFIX, frame
from lavic.crawl.pictures import Wanted
from lavic.errors import OutputError

# So many pictures are at a process: one is decoded, some wait for the disk, some wait to be decoded.
_AHEAD = 24
# Room for what is ahead, so that it is sent at once; the system may give less.
_SEND_BUFFER = 4 * 2**20
# 64 million pixels take some seconds; a decoder that needs a minute is in a loop.
DECODE_TIMEOUT_S = 60.0
_GOODBYE_S = 5.0
# -P and the parent's own path: a json.py in the current folder must not be taken for the library's.
_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); from lavic.crawl.picture_process import main; main()"
)
# Decoded pictures are as large as one another: memory given back to the system after each, and taken again, costs
# a millisecond of the kernel's time for 500 x 500 pixels (466 page faults; with these settings 9).
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PILLOW_BLOCKS_MAX": "8",
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
}

# Kinds of failure by the beginning of what images.py says; the rest is a picture that is damaged.
_IMAGE_KINDS = (
    ("the file is empty", "empty"),
    ("the file is an HTML page", "not_an_image"),
    ("the file is not an image", "not_an_image"),
    ("the image has more than", "too_many_pixels"),
    ("the image is cut off", "damaged"),
    ("the image is damaged", "damaged"),
)


@dataclass(frozen=True)
class Stored:
    """What became of a picture.

    Attributes:
        data: the stored bytes, if they were asked for.
    """

    width: int
    height: int
    byte_count: int
    sha256: str
    as_it_came: bool
    data: bytes


def image_failure(problem: str) -> CrawlFailure:
    """What a reason of ``images.py`` means for a crawl."""
    kind = next((kind for start, kind in _IMAGE_KINDS if problem.startswith(start)), "unusable")
    return CrawlFailure(kind, problem, http_code=200)


class _Died(Exception):  # noqa: N818
    """The process ended before it answered."""


class _Process:
    """One picture process and the answers that it owes, by number of the job."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._owed: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._jobs = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._starting = asyncio.Lock()

    async def ask(self, head: dict[str, Any], data: bytes, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Send a job and wait for its answer.

        Raises:
            _Died: the process did, or was ended as it took too long.
        """
        async with self._starting:
            if self._writer is None:
                await self._start()
        assert self._writer is not None
        answer: asyncio.Future[tuple[dict[str, Any], bytes]] = asyncio.get_running_loop().create_future()
        # If nobody waits any more (the run was stopped), its exception is nobody's either.
        answer.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._jobs += 1
        self._owed[self._jobs] = answer
        # If the process is gone, the reader sees it too.
        with contextlib.suppress(OSError):
            self._writer.write(frame({"job": self._jobs, **head}, data))
            await self._writer.drain()
        # A timer of its own: wait_for and shield would make a task and two futures for each picture.
        overdue = asyncio.get_running_loop().call_later(timeout_s, self._kill)
        try:
            return await answer
        finally:
            overdue.cancel()

    def _kill(self) -> None:
        if self._popen is not None:
            self._popen.kill()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        with theirs:
            command = [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path)]
            command += [str(theirs.fileno()), json.dumps(asdict(self._wanted))]
            self._popen = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT}
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._reader = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                head_length, data_length = PREFIX.unpack(await reader.readexactly(PREFIX.size))
                head = json.loads(await reader.readexactly(head_length))
                data = await reader.readexactly(data_length)
                answer = self._owed.pop(head.pop("job"))
                if not answer.done():
                    answer.set_result((head, data))
        except (asyncio.IncompleteReadError, OSError):
            pass
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
        owed, self._owed = self._owed, {}
        for answer in owed.values():
            if not answer.done():
                answer.set_exception(_Died())

    async def close(self) -> None:
        """Let it finish what it has, and wait for its end."""
        if self._writer is not None:
            self._writer.close()
        if self._popen is not None:
            try:
                await asyncio.to_thread(self._popen.wait, _GOODBYE_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                await asyncio.to_thread(self._popen.wait)
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader


class PicturePool:
    """Use as an async context, in which the processes run; one that ends early is started again.

    Args:
        wanted: how pictures are stored.
        processes: how many.
    """

    def __init__(self, wanted: Wanted, processes: int, decode_timeout_s: float = DECODE_TIMEOUT_S) -> None:
        self._timeout_s = decode_timeout_s
        self._processes = [_Process(wanted) for _ in range(processes)]
        self._alone = _Process(wanted)
        self._one_alone = asyncio.Lock()
        self._free: asyncio.Queue[_Process] = asyncio.Queue()
        for _ in range(_AHEAD):
            for process in self._processes:
                self._free.put_nowait(process)

    async def __aenter__(self) -> PicturePool:
        # They must be ready: a good picture that waits for its process would be counted after a hundred failures.
        greeting: dict[str, Any] = {"path": "", "back": False, "look": False}
        try:
            await asyncio.gather(*(process.ask(greeting, b"", DECODE_TIMEOUT_S) for process in self._processes))
        except _Died as error:
            await self.__aexit__()
            remedy = "The lines above say why; --processes 1 needs the least memory."
            raise OutputError("the processes that decode pictures do not start", remedy=remedy) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(process.close() for process in (*self._processes, self._alone)))

    async def store(self, data: bytes, path: Path | None, *, back: bool = False) -> Stored:
        """Decode a picture and store it under ``path``, whole or not at all; without a path only decode and encode.

        Raises:
            CrawlFailure: it cannot be decoded.
            OutputError: it cannot be written.
        """
        return await self._give({"path": str(path) if path is not None else "", "back": back, "look": False}, data)

    async def look(self, data: bytes) -> Stored:
        """Decode a picture that is stored already, to see that it is whole.

        Raises:
            CrawlFailure: it is not.
        """
        return await self._give({"path": "", "back": False, "look": True}, data)

    async def _give(self, head: dict[str, Any], data: bytes) -> Stored:
        process = await self._free.get()
        try:
            answer, stored = await process.ask(head, data, self._timeout_s)
        except _Died:
            answer, stored = await self._store_alone(head, data)
        finally:
            self._free.put_nowait(process)
        if "image_error" in answer:
            raise image_failure(answer["image_error"])
        if "output_error" in answer:
            problem, where, remedy = answer["output_error"]
            raise OutputError(problem, where=where, remedy=remedy)
        return Stored(**answer, data=stored)

    async def _store_alone(self, head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Once more, for a picture whose process died: with no other beside it, to see whether it was this one's fault.

        Raises:
            CrawlFailure: it was.
        """
        async with self._one_alone:
            try:
                return await self._alone.ask(head, data, self._timeout_s)
            except _Died:
                raise CrawlFailure("decoder_died", "the decoder crashed or took too long", http_code=200) from None
