"""A real HTTP server on loopback that does what hosts do, and what they should not."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

LOOPBACK = "127.0.0.1"
ALLOW = f"{LOOPBACK}/32"

Handler = Callable[["Request"], Awaitable[None]]


def picture_bytes(kind: str = "JPEG", size: tuple[int, int] = (40, 30), number: int = 0, **options: Any) -> bytes:
    """A small picture; ``number`` makes it another one."""
    mode = "RGBA" if kind in ("PNG", "WEBP") else "RGB"
    image = Image.new(mode, size, (number % 256, 80, 160, 128)[: len(mode)])
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


class Request:
    """One request and the connection to answer it on."""

    def __init__(self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.path, self.headers, self.writer = path, headers, writer
        self.keep = True

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes = b"", code: int = 200, length: int | None = None, **headers: str) -> None:
        """An ordinary answer; ``length`` may lie."""
        lines = [f"HTTP/1.1 {code} Said", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def open_end(self, body: bytes) -> None:
        """An answer without a length, which ends with the connection."""
        self.keep = False
        await self.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    def reset(self) -> None:
        """Break the connection rudely (RST instead of FIN)."""
        self.keep = False
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class HostileServer:
    """Use as a context; ``routes`` answers paths, others get 404. Counts what it is asked.

    Args:
        host: a loopback address.
        port: 0 takes a free one.
    """

    def __init__(self, routes: dict[str, Handler] | None = None, host: str = LOOPBACK, port: int = 0) -> None:
        self.routes: dict[str, Handler] = routes or {}
        self.default: Handler | None = None
        self.host, self.port = host, port
        self.asked: list[str] = []
        self.headers: dict[str, list[dict[str, str]]] = {}
        self.connections = 0
        self.busy = self.most_at_once = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._open: set[asyncio.Task[None]] = set()

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://{self.host}:{self.port}{path}"

    def times(self, path: str) -> int:
        """How often a path was asked for."""
        return self.asked.count(path)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, self.host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            self.asked.append(path)
            self.headers.setdefault(path, []).append(headers)
            request = Request(path, headers, writer)
            handler = self.routes.get(path, self.default or not_found)
            self.busy += 1
            self.most_at_once = max(self.most_at_once, self.busy)
            try:
                await handler(request)
            finally:
                self.busy -= 1
            if not request.keep:
                return


# -- what it can do ------------------------------------------------------------------------------------------


async def not_found(request: Request) -> None:
    """404 with a page."""
    await request.answer(b"<html>gone</html>", 404)


def sends(body: bytes, code: int = 200, **headers: str) -> Handler:
    """Always the same."""

    async def handler(request: Request) -> None:
        await request.answer(body, code, **headers)

    return handler


def one_after_another(*handlers: Handler) -> Handler:
    """A different answer each time; the last one stays."""
    left = list(handlers)

    async def handler(request: Request) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(request)

    return handler


def redirects(to: str) -> Handler:
    """302."""
    return sends(b"", 302, Location=to)


def slowly(handler: Handler, seconds: float) -> Handler:
    """After a while."""

    async def slow(request: Request) -> None:
        await asyncio.sleep(seconds)
        await handler(request)

    return slow


async def drips(request: Request) -> None:
    """A byte now and then, for ever."""
    await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await request.send(b"\xff")
        await asyncio.sleep(0.05)


async def drips_headers(request: Request) -> None:
    """Not even the headers come to an end."""
    await request.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await request.send(b"X: y\r\n")
        await asyncio.sleep(0.05)


async def never_ends(request: Request) -> None:
    """As much as the other side takes."""
    await request.open_end(picture_bytes())
    while True:
        await request.send(b"\0" * 65536)


async def resets(request: Request) -> None:
    """Breaks the connection instead of an answer."""
    request.reset()


async def resets_in_the_middle(request: Request) -> None:
    """Breaks it inside the picture."""
    await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + picture_bytes())
    request.reset()


async def talks_nonsense(request: Request) -> None:
    """No HTTP."""
    request.keep = False
    await request.send(b"220 mail.example ESMTP\r\n")


def promises_more(body: bytes) -> Handler:
    """A Content-Length beyond what comes."""

    async def handler(request: Request) -> None:
        request.keep = False
        await request.answer(body, length=len(body) + 5000)

    return handler


def promises_less(body: bytes) -> Handler:
    """A Content-Length that cuts the picture off."""

    async def handler(request: Request) -> None:
        request.keep = False
        await request.answer(body, length=len(body) // 2)

    return handler


def open_ended(body: bytes) -> Handler:
    """Without a length."""

    async def handler(request: Request) -> None:
        await request.open_end(body)

    return handler


def gzip_bomb(megabytes: int) -> Handler:
    """Much out of little."""
    return sends(gzip.compress(b"\0" * (megabytes * 2**20)), Content_Encoding="gzip")


# -- metadata ------------------------------------------------------------------------------------------------


def write_valid(folder: Path, urls: dict[str, str]) -> Path:
    """``item2meta_valid.jsonl`` with an address per image name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "item2meta_valid.jsonl"
    rows = [{"title": "A mug", "image_name": name, "image": url} for name, url in urls.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def crawl_words(folder: Path, **more: Any) -> list[str]:
    """A command line for the validation pictures of ``folder``, impatient as tests are."""
    values: dict[str, Any] = {
        "val_data": folder / "item2meta_valid.jsonl",
        "val_images_dir": folder / "valid_images",
        "valid_only": True,
        "allow_private": ALLOW,
        "processes": 1,
        "timeout_s": 1.5,
        "deadline_s": 4,
        "retries": 2,
        "backoff_s": 0.01,
        **more,
    }
    words = ["crawl"]
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return words


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The report's rows by image name; each stands once."""
    lines = (folder / "crawl_report.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    by_name = {row["image_name"]: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def names_in(folder: Path) -> set[str]:
    """What is in a folder, without the lock."""
    return {path.name for path in folder.iterdir()} - {".lavic.lock"}
