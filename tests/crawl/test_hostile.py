"""One crawl over a host that does everything wrong: what becomes of each picture, and nothing wrong is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_server import (
    HostileServer,
    crawl_words,
    drips,
    drips_headers,
    gzip_bomb,
    names_in,
    never_ends,
    one_after_another,
    open_ended,
    picture_bytes,
    promises_less,
    promises_more,
    redirects,
    resets,
    resets_in_the_middle,
    rows_of,
    sends,
    slowly,
    talks_nonsense,
    write_valid,
)
from PIL import Image

from lavic.cli.main import run_command_line

GOOD = picture_bytes(size=(64, 48))
MAX_BYTES = 200_000

# name -> (class of failure, HTTP code, attempts, whether it may pass); 1 + 2 retries are 3 attempts
FAILURES: dict[str, tuple[str, int | None, int, bool]] = {
    "slow_0.jpg": ("timeout", None, 3, True),
    "drip_0.jpg": ("timeout", 200, 3, True),
    "dripheaders_0.jpg": ("timeout", None, 3, True),
    "endless_0.jpg": ("too_large", 200, 1, False),
    "long_0.jpg": ("cut_off", 200, 3, True),
    "short_0.jpg": ("bad_answer", None, 3, True),
    "truncated_0.jpg": ("damaged", 200, 3, True),
    "html_0.jpg": ("not_an_image", 200, 1, False),
    "loop_0.jpg": ("too_many_redirects", 302, 1, False),
    "inside_0.jpg": ("not_allowed_address", 302, 1, False),
    "file_0.jpg": ("bad_url", 302, 1, False),
    "brackets_0.jpg": ("bad_url", 302, 1, False),
    "gone_0.jpg": ("http_404", 404, 1, False),
    "forbidden_0.jpg": ("http_403", 403, 1, False),
    "broken_0.jpg": ("http_500", 500, 3, True),
    "bomb_0.jpg": ("too_large", 200, 1, False),
    "brotli_0.jpg": ("bad_answer", 200, 1, False),
    "empty_0.jpg": ("empty", 200, 3, True),
    "svg_0.jpg": ("not_an_image", 200, 1, False),
    "reset_0.jpg": ("reset", None, 3, True),
    "nonsense_0.jpg": ("bad_answer", None, 3, True),
    "noai_0.jpg": ("noai", 200, 1, False),
    "pixels_0.jpg": ("too_many_pixels", 200, 1, False),
    "nowhere_0.jpg": ("no_url", None, 0, False),
    "ftp_0.jpg": ("bad_url", None, 0, False),
    "password_0.jpg": ("bad_url", None, 0, False),
}
# name -> (attempts, whether the bytes are those sent)
GOOD_ONES: dict[str, tuple[int, bool]] = {
    "plain_0.jpg": (1, True),
    "busy_0.jpg": (2, True),
    "twice_0.jpg": (3, True),
    "moved_0.jpg": (1, True),
    "packed_0.jpg": (1, True),
    "openend_0.jpg": (1, True),
    "png_0.jpg": (1, False),
    "gif_0.jpg": (1, False),
    "webp_0.jpg": (1, False),
    "avif_0.jpg": (1, False),
    "tail_0.jpg": (1, False),
    "otherbot_0.jpg": (1, True),
}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def routes(inside: str) -> dict[str, Any]:
    import gzip

    good = sends(GOOD)
    return {
        "/plain": good,
        "/slow": slowly(good, 5),
        "/drip": drips,
        "/dripheaders": drips_headers,
        "/endless": never_ends,
        "/long": promises_more(GOOD),
        "/short": promises_less(GOOD),
        "/truncated": open_ended(GOOD[: len(GOOD) // 2]),
        "/openend": open_ended(GOOD),
        "/html": sends(b"<!DOCTYPE html><title>Sign in</title>", Content_Type="image/jpeg"),
        "/loop": redirects("/loop"),
        "/inside": redirects(inside),
        "/file": redirects("file:///etc/passwd"),
        "/brackets": redirects("http://]n[:@"),
        "/moved": redirects("/plain"),
        "/forbidden": sends(b"no", 403),
        "/broken": sends(b"", 500),
        "/twice": one_after_another(sends(b"", 500), sends(b"", 500), good),
        "/busy": one_after_another(sends(b"", 429, Retry_After="1"), good),
        "/bomb": gzip_bomb(50),
        "/packed": sends(gzip.compress(GOOD), Content_Encoding="gzip"),
        "/brotli": sends(b"\x0b", Content_Encoding="br"),
        "/empty": sends(b""),
        "/svg": sends(SVG),
        "/png": sends(picture_bytes("PNG")),
        "/gif": sends(picture_bytes("GIF")),
        "/webp": sends(picture_bytes("WEBP")),
        "/avif": sends(picture_bytes("AVIF")),
        "/tail": sends(GOOD + b"<script>alert(1)</script>"),
        "/reset": resets,
        "/nonsense": talks_nonsense,
        "/noai": sends(GOOD, X_Robots_Tag="noindex, noai"),
        "/otherbot": sends(GOOD, X_Robots_Tag="otherbot: noai"),
        "/pixels": sends(picture_bytes(size=(2000, 2000))),
    }


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, HostileServer, HostileServer, int]]:
    """All of it in one run: the folder, both servers (the second must not be asked) and the exit code."""
    folder = tmp_path_factory.mktemp("hostile")
    with HostileServer(host="127.0.0.2") as inside, HostileServer(routes(inside.url("/secret"))) as server:
        urls = {name: server.url("/" + name.split("_")[0]) for name in (*FAILURES, *GOOD_ONES)}
        urls["nowhere_0.jpg"] = ""
        urls["ftp_0.jpg"] = "ftp://127.0.0.1/x.jpg"
        urls["password_0.jpg"] = f"http://user:word@127.0.0.1:{server.port}/plain"
        write_valid(folder, urls)
        words = crawl_words(folder, max_bytes=MAX_BYTES, max_pixels=1_000_000, dead_after=1000, deadline_s=20)
        yield folder, server, inside, run_command_line(words)


@pytest.mark.parametrize("name", FAILURES)
def test_a_bad_answer_is_reported_and_nothing_is_stored(crawled: Any, name: str) -> None:
    folder = crawled[0]
    row = rows_of(folder)[name]
    found = (row["error"], row["http_code"], row["attempts"], row["passing"])
    assert (row["status"], found) == ("failed", FAILURES[name])
    assert row["sha256"] is None
    assert not (folder / "valid_images" / name).exists()


@pytest.mark.parametrize("name", GOOD_ONES)
def test_what_is_a_picture_is_stored_whole(crawled: Any, name: str) -> None:
    folder = crawled[0]
    row = rows_of(folder)[name]
    attempts, as_it_came = GOOD_ONES[name]
    assert (row["status"], row["http_code"], row["attempts"]) == ("ok", 200, attempts)
    data = (folder / "valid_images" / name).read_bytes()
    assert row["as_it_came"] is as_it_came
    assert (data == GOOD) is as_it_came
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert row["bytes"] == len(data)
    with Image.open(folder / "valid_images" / name) as image:
        image.load()
        assert (image.format, image.mode, list(image.size)) == ("JPEG", "RGB", row["size"])
    assert b"script" not in data


def test_nothing_else_lies_in_the_folder_and_the_exit_code_says_that_some_are_missing(crawled: Any) -> None:
    folder, _, _, code = crawled
    assert names_in(folder / "valid_images") == set(GOOD_ONES)
    assert code == 1


def test_no_byte_went_to_an_address_that_is_not_allowed(crawled: Any) -> None:
    _, _, inside, _ = crawled
    assert inside.connections == 0


def test_each_request_says_who_asks(crawled: Any) -> None:
    _, server, _, _ = crawled
    agents = {headers["user-agent"] for each in server.headers.values() for headers in each}
    assert len(agents) == 1
    assert agents.pop().startswith("lavic/")
    assert server.times("/robots.txt") == 1


def test_a_connection_that_breaks_inside_a_picture_is_tried_again(tmp_path: Path) -> None:
    handlers = {"/a": one_after_another(resets_in_the_middle, sends(GOOD))}
    with HostileServer(handlers) as server:
        write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        assert run_command_line(crawl_words(tmp_path)) == 0
    row = rows_of(tmp_path)["a_0.jpg"]
    assert (row["attempts"], row["sha256"]) == (2, hashlib.sha256(GOOD).hexdigest())
