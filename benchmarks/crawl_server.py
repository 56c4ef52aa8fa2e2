"""A fast local server of pictures, with a wait before each answer and a share of failures; in a process of its own.

    python benchmarks/crawl_server.py FOLDER LATENCY_MS ERROR_RATE

prints its port and serves ``/N.jpg`` (N modulo the pictures of the folder) until its stdin is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from pathlib import Path

_REQUEST = re.compile(rb"GET /(\d+)\.jpg[^ ]* HTTP/1\.1\r\n")
_FAILED = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Pictures(asyncio.Protocol):
    """Answers with bytes made beforehand: the server must not be what is measured."""

    def __init__(self, answers: list[bytes], latency_s: float, error_rate: float) -> None:
        self._answers, self._latency_s, self._error_rate = answers, latency_s, error_rate
        self._buffer = b""
        self._seen: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
            answer = self._answer(head)
            if self._latency_s:
                asyncio.get_running_loop().call_later(self._latency_s, self._send, answer)
            else:
                self._send(answer)

    def _answer(self, head: bytes) -> bytes:
        match = _REQUEST.match(head)
        if match is None:
            return _NOT_FOUND
        number = int(match[1])
        # Which pictures fail at a connection's first try does not hang on chance.
        lot = hashlib.blake2b(match[1], digest_size=4).digest()
        if int.from_bytes(lot, "big") < self._error_rate * 2**32 and not self._seen.setdefault(number, 0):
            self._seen[number] = 1
            return _FAILED
        return self._answers[number % len(self._answers)]

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def serve(folder: Path, latency_s: float, error_rate: float) -> None:
    """Serve until stdin ends."""
    answers = []
    for path in sorted(folder.glob("*.jpg")):
        body = path.read_bytes()
        answers.append(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Pictures(answers, latency_s, error_rate), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2]) / 1000, float(sys.argv[3])))
