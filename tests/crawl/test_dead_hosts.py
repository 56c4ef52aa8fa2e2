"""Hosts that do not answer for a while: their pictures wait, one probes, the others' go on; for ever ends some time."""

from __future__ import annotations

import asyncio
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hostile_server import Handler, HostileServer, Request, crawl_words, picture_bytes, rows_of, sends, write_valid

from lavic.cli.main import run_command_line
from lavic.crawl.failures import CrawlFailure, Waiting
from lavic.crawl.hosts import Host

GOOD = picture_bytes()


@pytest.fixture
def nobody() -> str:
    """An address on which nobody listens."""
    with HostileServer() as server:
        return server.url("/")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [100.0]
    monkeypatch.setattr("lavic.crawl.hosts.time.monotonic", lambda: now[0])
    return now


def dead_words(folder: Path, **more: Any) -> list[str]:
    return crawl_words(folder, **{"ignore_robots": True, "dead_after": 3, "dead_pause_s": 0.02, "retries": 0, **more})


def test_pauses_grow_until_the_host_is_given_up(clock: list[float]) -> None:
    host = Host("h:80", 4, 0.0)
    assert [host.silent(clock[0], 3, 5) for _ in range(3)] == [0, 0, 5]
    for pause_s, following in ((5, 10), (10, 20), (20, 40), (40, 80), (80, math.inf)):
        clock[0] += pause_s - 0.1
        with pytest.raises(Waiting):
            host.require("a")
        clock[0] += 0.2
        host.require("a")
        with pytest.raises(Waiting):
            host.require("b")  # one that probes is enough
        assert host.silent(clock[0], 3, 5) == following
    with pytest.raises(CrawlFailure, match="h:80 did not answer 8 times in a row, over 156 s") as caught:
        host.require("b")
    assert (caught.value.kind, caught.value.passing) == ("host_down", True)


def test_an_answer_ends_it_and_what_was_on_its_way_says_nothing(clock: list[float]) -> None:
    host = Host("h:80", 4, 0.0)
    sent = clock[0] - 1
    assert [host.silent(sent, 2, 5) for _ in range(2)] == [0, 5]
    clock[0] += 6
    assert host.silent(sent, 2, 5) == 0  # no second pause for what was asked before the first
    host.require("a")
    host.release("a")  # it was given up without having asked
    host.require("b")
    assert host.answered()
    host.require("a")
    assert [host.silent(clock[0], 2, 5) for _ in range(2)] == [0, 5]  # the first pause again


def test_a_hiccup_of_the_only_host_costs_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count, begun = 0, 0.0

    async def hiccups(request: Request) -> None:
        nonlocal count, begun
        count += 1
        if count == 40:
            begun = time.monotonic()
        # So long that all who ask at a time are cut off, whatever was under way before.
        if count >= 40 and time.monotonic() - begun < 0.4:
            request.reset()
        else:
            await request.answer(GOOD)

    with HostileServer() as server:
        server.default = hiccups
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(200)})
        words = dead_words(tmp_path, dead_after=10, workers=16, retries=8, stop_after=20, dead_pause_s=0.2)
        assert run_command_line(words) == 0
    err = capsys.readouterr().err
    assert f"127.0.0.1:{server.port} did not answer 10 times in a row: its pictures wait, and in 0.2 s it is" in err
    assert f"127.0.0.1:{server.port} answers again." in err
    assert ", waiting 0" in err


def test_a_given_up_host_is_no_reason_to_stop_and_is_told(
    tmp_path: Path, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_valid(tmp_path, {f"a_{i}.jpg": f"{nobody}{i}" for i in range(30)})
    assert run_command_line(dead_words(tmp_path, workers=1, stop_after=10)) == 1
    # Three fail, then one behind each of five pauses; the others are never asked for.
    told = [(row["error"], row["attempts"], row["passing"]) for row in rows_of(tmp_path).values()]
    assert (told.count(("connect", 1, True)), told.count(("host_down", 0, True))) == (8, 22)
    out, err = capsys.readouterr()
    assert "did not answer 8 times in a row: it is given up." in err
    assert "over 1 s, so 22 of its pictures were given up. Is the host down, or is this machine offline?" in err
    assert "stops here" not in err
    assert out.splitlines()[-1].startswith("Next: the same command with --retry_failed asks again for 30 ")


def test_other_hosts_go_on_meanwhile(tmp_path: Path, nobody: str) -> None:
    with HostileServer() as server:
        server.default = sends(GOOD)
        # More of the dead host's come first than there are workers.
        urls = {f"a_{i}.jpg": f"{nobody}{i}" for i in range(60)}
        write_valid(tmp_path, urls | {f"b_{i}.jpg": server.url(f"/{i}") for i in range(20)})
        assert run_command_line(dead_words(tmp_path, workers=2, dead_pause_s=0.05)) == 1
    order = [row["error"] for row in rows_of(tmp_path).values()]
    assert order.count(None) == 20
    assert order.index("host_down") > max(place for place, error in enumerate(order) if error is None)


def test_more_pictures_than_may_wait_wait_in_the_metadata(
    tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavic.crawl.pipeline.MAX_PARKED", 5)
    with HostileServer() as server:
        server.default = sends(GOOD)
        urls = {f"a_{i}.jpg": f"{nobody}{i}" for i in range(60)}
        write_valid(tmp_path, urls | {f"b_{i}.jpg": server.url(f"/{i}") for i in range(20)})
        assert run_command_line(dead_words(tmp_path, workers=2)) == 1
    rows = rows_of(tmp_path).values()
    assert (len(rows), [row["status"] for row in rows].count("ok")) == (80, 20)


def slow_at_first() -> Handler:
    """Of each path the first answer takes longer than anyone waits; a reset aiohttp would hide by asking once more."""
    asked: set[str] = set()

    async def handler(request: Request) -> None:
        if request.path not in asked:
            asked.add(request.path)
            await asyncio.sleep(20)
        await request.answer(GOOD)

    return handler


def test_pictures_in_flight_keep_their_retries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HostileServer() as server:
        server.default = slow_at_first()
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(4)})
        assert run_command_line(dead_words(tmp_path, workers=4, dead_after=4, retries=1, timeout_s=0.4)) == 0
    assert "did not answer 4 times in a row: its pictures wait" in capsys.readouterr().err
    assert {row["attempts"] for row in rows_of(tmp_path).values()} == {2}


def test_a_pause_costs_nothing_of_the_deadline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HostileServer() as server:
        server.default = slow_at_first()
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(2)})
        words = dead_words(tmp_path, dead_after=2, retries=1, timeout_s=0.4, deadline_s=1.2, dead_pause_s=1.5)
        assert run_command_line(words) == 0
    assert "its pictures wait, and in 1.5 s it is asked again" in capsys.readouterr().err


def test_robots_txt_can_be_what_probes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 0

    async def robots(request: Request) -> None:
        nonlocal count
        count += 1
        if count <= 8:
            request.reset()
        else:
            await request.answer(b"User-agent: *\nDisallow: /secret\n")

    with HostileServer({"/robots.txt": robots}) as server:
        server.default = sends(GOOD)
        write_valid(
            tmp_path, {"a_0.jpg": server.url("/a"), "b_0.jpg": server.url("/secret"), "c_0.jpg": server.url("/c")}
        )
        assert run_command_line(dead_words(tmp_path, ignore_robots=False, dead_after=2, retries=4)) == 1
    assert "answers again" in capsys.readouterr().err
    assert {name: row["error"] for name, row in rows_of(tmp_path).items()} == {
        "a_0.jpg": None,
        "b_0.jpg": "robots",
        "c_0.jpg": None,
    }


def test_ctrl_c_ends_a_pause(tmp_path: Path, nobody: str) -> None:
    write_valid(tmp_path, {f"a_{i}.jpg": f"{nobody}{i}" for i in range(2000)})
    command = [sys.executable, "-m", "lavic.cli.main", *dead_words(tmp_path, dead_pause_s=60)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "its pictures wait, and in 60 s it is asked again." not in process.stderr.readline():
        assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 9  # what is under way would have ten seconds
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert {row["error"] for row in rows_of(tmp_path).values()} == {"connect"}
