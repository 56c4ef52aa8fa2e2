"""What a row of ``crawl_report.jsonl`` holds, and what a later run takes from it."""

from __future__ import annotations

from typing import Any

from lavic.crawl.fetching import Fetched
from lavic.crawl.picture_pool import Stored
from lavic.crawl.report import OK, THERE
from lavic.crawl.targets import Target
from lavic.crawl.tries import Try

# Keys of a report's row.
_OF_THE_FILE = ("bytes", "size", "sha256", "as_it_came")
_OF_THE_ADDRESS = ("etag", "last_modified", "redirected_to")


def known_of(earlier: dict[str, Any] | None, target: Target, size: int | None) -> dict[str, Any]:
    """What an earlier row says of the file that is there, if it is still the same one.

    Args:
        size: bytes of the file.
    """
    if earlier is None or (earlier["status"] not in THERE and not earlier.get("kept")):
        return {}
    if size is None or earlier.get("bytes") != size:
        return {}
    # What the host said of another address says nothing of this one.
    keys = (*_OF_THE_FILE, *(_OF_THE_ADDRESS if earlier.get("url") == target.url else ()))
    return {key: earlier[key] for key in keys if key in earlier}


def conditions_of(known: dict[str, Any]) -> dict[str, str]:
    """What lets a host answer that nothing has changed."""
    if known.get("etag"):
        return {"If-None-Match": str(known["etag"])}
    return {"If-Modified-Since": str(known["last_modified"])} if known.get("last_modified") else {}


def row_of(target: Target, status: str) -> dict[str, Any]:
    """A row that says no more than which picture, and what became of it."""
    return {
        "split": target.split,
        "item_id": target.item_id,
        "image_name": target.image_name,
        "url": target.url,
        "url_key": target.url_key,
        "status": status,
        "http_code": None,
        "bytes": None,
        "size": None,
        "sha256": None,
        "attempts": 0,
        "error": None,
    }


def ok_row(target: Target, fetched: Fetched, stored: Stored, spent: Try) -> dict[str, Any]:
    """The row of a picture that was fetched and stored."""
    more = {"etag": fetched.etag, "last_modified": fetched.last_modified, "redirected_to": fetched.redirected_to}
    return {
        **row_of(target, OK),
        "http_code": fetched.http_code,
        "bytes": stored.byte_count,
        "size": [stored.width, stored.height],
        "sha256": stored.sha256,
        "attempts": spent.attempts,
        "as_it_came": stored.as_it_came,
        **{key: value for key, value in more.items() if value},
    }
