"""Pictures in worker processes: all opened, those that look cut off and a sample decoded, or all decoded.

Opening reads the first bytes of a file, which tell its kind and size, and the last ones, which a broken download lacks.
What looks odd there is decoded by the very function that the run uses, so that both always agree.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from lavic.errors import ImageError
from lavic.files import open_regular
from lavic.images import IMAGE_LIMITS, opened_image, read_image

#: Pictures that are decoded although they look right.
DECODED_SAMPLE = 200
#: Below this many, starting processes takes longer than looking.
_ALONE = 500
_CHUNK = 250
#: How a whole file ends: JPEG's end-of-image marker, PNG's last chunk, GIF's trailer.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_HEAD_BYTES, _TAIL_BYTES = 12, 64


@dataclass(frozen=True)
class PictureReport:
    """What was looked at.

    Attributes:
        opened: pictures of which the first and last bytes were read.
        decoded: pictures that were decoded completely.
        broken: path -> why the run would leave it out.
    """

    opened: int
    decoded: int
    broken: dict[Path, str]


def look_at_pictures(
    paths: Sequence[Path], *, seed: int, thorough: bool, advance: Callable[[int], object] = lambda _: None
) -> PictureReport:
    """Look at pictures that are there.

    Args:
        paths: each once.
        seed: of the sample that is decoded.
        thorough: decode all.
        advance: called with the number of pictures that have been looked at since the last call.
    """
    sample = set(random.Random(seed).sample(range(len(paths)), min(DECODED_SAMPLE, len(paths))))
    tasks = [(path, thorough or index in sample) for index, path in enumerate(paths)]
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    decoded, broken = 0, {}
    for results in _looked_at(chunks, processes=_processes(len(paths))):
        decoded += sum(was_decoded for _, was_decoded, _ in results)
        broken.update({path: problem for path, _, problem in results if problem})
        advance(len(results))
    return PictureReport(len(paths), decoded, broken)


def _processes(pictures: int) -> int:
    return 0 if pictures < _ALONE else len(os.sched_getaffinity(0))


_Task = tuple[Path, bool]
_Result = tuple[Path, bool, str]


def _looked_at(chunks: list[list[_Task]], *, processes: int) -> Iterator[list[_Result]]:
    """The results of each chunk, from processes if there are any."""
    if not processes:
        yield from map(look_at_chunk, chunks)
        return
    # spawn: a process forked beside torch's threads may hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_leave_ctrl_c) as pool:
        futures: list[Future[list[_Result]]] = [pool.submit(look_at_chunk, chunk) for chunk in chunks]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _leave_ctrl_c() -> None:
    """Ctrl-C in a terminal reaches every process; the first one ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def look_at_chunk(tasks: list[_Task]) -> list[_Result]:
    """Path, whether it was decoded, and "" or why it cannot be used."""
    return [_look_at(path, decode) for path, decode in tasks]


def _look_at(path: Path, decode: bool) -> _Result:
    if not decode and _looks_whole(path):
        return path, False, ""
    try:
        read_image(path)
    except ImageError as error:
        return path, True, error.problem
    except Exception as error:  # a border: one picture never ends the check, whatever a decoder raises
        return path, True, f"cannot be decoded ({type(error).__name__})"
    return path, True, ""


def _looks_whole(path: Path) -> bool:
    """Whether the first and last bytes are those of a picture that the run takes."""
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEAD_BYTES)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            tail = stream.read()
            stream.seek(0)
            with opened_image(stream) as image:
                small = size <= IMAGE_LIMITS.max_bytes and image.width * image.height <= IMAGE_LIMITS.max_pixels
                return small and _ends_well(str(image.format), head, tail, size)
    except Exception:  # a border: the run's own function says what is wrong
        return False


def _ends_well(kind: str, head: bytes, tail: bytes, size: int) -> bool:
    """Whether the end of the file can be seen; zeros and line ends behind it are common and harmless."""
    if kind == "WEBP":
        return size >= int.from_bytes(head[4:8], "little") + 8  # RIFF states its size
    end = _ENDS.get(kind)
    return end is not None and tail.rstrip(b"\0\r\n ").endswith(end)
