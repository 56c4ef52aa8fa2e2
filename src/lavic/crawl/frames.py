"""What passes between the crawl and its picture processes: a JSON head and bytes, each with its length before it."""

from __future__ import annotations

import json
import struct
from typing import Any

PREFIX = struct.Struct("!IQ")


def frame(head: dict[str, Any], data: bytes = b"") -> bytes:
    """Head and data as they are sent."""
    text = json.dumps(head).encode("ascii")
    return PREFIX.pack(len(text), len(data)) + text + data
