"""A process that decodes, encodes and stores pictures, as ``picture_pool`` asks it to.

It knows nothing of the network. It ends when the other end of its socket is closed, however that came about.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from lavic.crawl.frames import PREFIX, frame
from lavic.crawl.group_writes import write_group
from lavic.crawl.pictures import Prepared, Wanted, look, prepare
from lavic.errors import ImageError

# More are not ready at a time: the crawl gives a process no more ahead.
MAX_GROUP = 24

Ready = tuple[int, Path, Prepared]


def serve(connection: socket.socket, wanted: Wanted) -> None:
    """Answer jobs until there are no more, each with its number, maybe in another order.

    A job is the bytes and ``{"job": number, "path": where to store, or "", "back": whether the bytes are wanted back,
    "look": whether it is stored already and only looked at}``. While one thread decodes, another stores what is ready,
    in groups: see ``group_writes``.
    """
    sending = threading.Lock()

    def answer(number: int, head: dict[str, Any], data: bytes = b"") -> None:
        # If nobody listens any more, the crawl was stopped meanwhile.
        with sending, contextlib.suppress(OSError):
            connection.sendall(frame({"job": number, **head}, data))

    ready: queue.SimpleQueue[Ready | None] = queue.SimpleQueue()
    writer = threading.Thread(target=store_groups, args=(ready, answer))
    writer.start()
    try:
        # A crawl that is killed closes its end, or resets it: either is the end of the jobs.
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
            while (received := _receive(stream)) is not None:
                job, data = received
                try:
                    prepared = (look if job["look"] else prepare)(data, wanted)
                except ImageError as error:
                    answer(job["job"], {"image_error": error.problem})
                    continue
                if job["path"]:
                    ready.put((job["job"], Path(job["path"]), prepared))
                else:
                    answer(job["job"], facts_of(prepared), prepared.data if job["back"] else b"")
    finally:
        ready.put(None)  # or the thread would wait for ever, and the process with it
        writer.join()


def store_groups(ready: queue.SimpleQueue[Ready | None], answer: Callable[[int, dict[str, Any]], None]) -> None:
    """Store what is ready, all of it at a time, until None comes."""
    going_on = True
    while going_on:
        group = [ready.get()]
        while group[-1] is not None and len(group) < MAX_GROUP:
            try:
                group.append(ready.get_nowait())
            except queue.Empty:
                break
        going_on = group[-1] is not None
        jobs = [job for job in group if job is not None]
        errors = write_group([(path, prepared.data) for _, path, prepared in jobs])
        for (number, _, prepared), error in zip(jobs, errors, strict=True):
            if error is None:
                answer(number, facts_of(prepared))
            else:
                answer(number, {"output_error": [error.problem, error.where, error.remedy]})


def facts_of(prepared: Prepared) -> dict[str, Any]:
    """What the crawl reports of a picture."""
    facts = {key: value for key, value in asdict(prepared).items() if key != "data"}
    return facts | {"byte_count": len(prepared.data), "sha256": hashlib.sha256(prepared.data).hexdigest()}


def _receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    head_length, data_length = PREFIX.unpack(prefix)
    head = stream.read(head_length)
    data = stream.read(data_length)
    return (json.loads(head), data) if len(head) == head_length and len(data) == data_length else None


def main() -> None:
    """Entry point of the process; its arguments are the number of its socket and the settings as JSON."""
    # Ctrl-C reaches the whole group of processes; when to end is for the crawl to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve(socket.socket(fileno=int(sys.argv[1])), Wanted(**json.loads(sys.argv[2])))
