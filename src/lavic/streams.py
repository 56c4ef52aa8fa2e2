"""The process's streams where whoever reads them may go away, or the disk behind them be full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from lavic.errors import OutputError


class _Lasting:
    """A stream that drops what can no longer be written, and everything after it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> int:
        if not self._gone:
            try:
                return self._stream.write(text)
            except OSError:
                self._gone = True
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            try:
                self._stream.flush()
            except OSError:
                self._gone = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: TextIO) -> TextIO:
    """The stream for notices: a run of hours does not end because its terminal was closed.

    The log file has all that is lost here.
    """
    return stream if isinstance(stream, _Lasting) else cast(TextIO, _Lasting(stream))


@contextmanager
def result_to(name: str) -> Iterator[None]:
    """While a result is written to a stream.

    Raises:
        OutputError: it cannot be, as on a full disk.
        BrokenPipeError: nobody reads any more (``lavic ... | head``).
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"the result cannot be written ({error.strerror or error})", where=name) from None
