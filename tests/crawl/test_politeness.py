"""robots.txt by the examples of RFC 9309, X-Robots-Tag, Retry-After; and all three against a server."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hostile_server import (
    HostileServer,
    Request,
    crawl_words,
    drips,
    one_after_another,
    picture_bytes,
    redirects,
    rows_of,
    sends,
    slowly,
    write_valid,
)
from yarl import URL

from lavic.cli.main import run_command_line
from lavic.crawl.politeness import forbids_ai, parse_robots, retry_after_s

GOOD = picture_bytes()
# RFC 9309, 5.1
SIMPLE = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("agent", "path", "allowed"),
    [
        ("lavic", "/example/x", False),
        ("lavic", "/a/b.gif", False),
        ("lavic", "/a/b.gif?c", True),
        ("lavic", "/publications/x", True),
        ("lavic", "/", True),
        ("foobot", "/example/page.html", True),
        ("FooBot", "/anything", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/allowed.gif", True),
        ("quxbot", "/example/", True),
    ],
)
def test_robots_txt_is_read_as_rfc_9309_says(agent: str, path: str, allowed: bool) -> None:
    assert parse_robots(SIMPLE, agent).allows(path) is allowed


def test_the_longest_rule_holds_and_a_tie_allows() -> None:
    # RFC 9309, 5.2
    rules = parse_robots("User-agent: foobot\nAllow: /example/page/\nDisallow: /example/page/x.gif", "foobot")
    assert rules.allows("/example/page/")
    assert not rules.allows("/example/page/x.gif")
    assert parse_robots("User-agent: *\nDisallow: /a\nAllow: /a", "lavic").allows("/a")


@pytest.mark.parametrize(
    ("pattern", "address", "allowed"),
    [
        # RFC 9309, 2.2.2: octets are compared after encoding what is not ASCII and decoding what needs no encoding.
        ("/%7Ejoe/", "/~joe/a.jpg", False),
        ("/~joe/", "/%7ejoe/a.jpg", False),
        ("/privé/", "/priv%c3%a9/a.jpg", False),
        ("/a%3cd", "/a%3Cd.jpg", False),
        ("/a%2Fb", "/a/b", True),
        # RFC 9309, 2.2.3: these two are no wildcards.
        ("/%2A/a", "/x/a", True),
        ("/%2A/a", "/*/a", False),
        ("/a%24", "/a$b", False),
        # What has no quoting must not change: dots, a lone question mark, two slashes, a query's plus.
        ("/*./x", "/a/x", True),
        ("/*?", "/a", True),
        ("/*?", "/a?b", False),
        ("/*//b", "/a//b", False),
        ("/*?q=a%2Bb*&c=é$", "/x?q=a%2Bb&d=1&c=%C3%A9", False),
        ("/*?q=a%2Bb*&c=é$", "/x?q=a b&c=%C3%A9", True),
    ],
)
def test_rules_and_addresses_are_quoted_alike(pattern: str, address: str, allowed: bool) -> None:
    path = URL(f"http://host{address}").raw_path_qs
    assert parse_robots(f"User-agent: *\nDisallow: {pattern}", "lavic").allows(path) is allowed


def test_a_pattern_made_to_be_slow_is_not() -> None:
    rules = parse_robots("User-agent: *\nDisallow: /" + "*a" * 500 + "*b$", "lavic")
    begun = time.process_time()
    assert rules.allows("/" + "a" * 5000)
    assert time.process_time() - begun < 5  # a backtracking search would need years


def test_robots_txt_that_is_no_such_file_allows_all() -> None:
    assert parse_robots("<html><body>Welcome: home</body></html>", "lavic").allows("/a.jpg")
    assert parse_robots("\ufeffUser-agent: *\r\nDisallow: /", "lavic").allows("/a.jpg") is False
    assert parse_robots("User-agent: *\nCrawl-delay: 2.5\nDisallow:", "lavic").crawl_delay_s == 2.5


@pytest.mark.parametrize(
    ("tags", "forbidden"),
    [
        (["noai"], True),
        (["noindex, NoImageAI"], True),
        (["noindex", "noai"], True),
        (["lavic: noai"], True),
        (["*: noai"], True),
        (["otherbot: noai"], False),
        (["noindex, nofollow"], False),
        (["otherbot: noindex, noai"], False),
        (["noindex, lavic: noai"], True),
        (["otherbot: noindex, lavic: noai"], True),
        (["max-image-preview:large, noai"], True),
        (["max-snippet: 10, noai"], True),
        (["otherbot: max-snippet: 10, noai"], False),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
        (["unavailable_after: Tue, 25 Jun 2030 15:00:00 PST, noai"], True),
        ([], False),
    ],
)
def test_x_robots_tag(tags: list[str], forbidden: bool) -> None:
    assert forbids_ai(tags, "lavic") is forbidden


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 31, 10, 0, 0, tzinfo=UTC)
    assert retry_after_s("120") == 120
    assert retry_after_s("Sat, 31 Jan 2026 10:01:30 GMT", now) == 90
    assert retry_after_s("Sat, 31 Jan 2026 09:00:00 GMT", now) == 0
    year, zone = f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", f"Mon, 01 Jan 2024 00:00:00 +{'9' * 14}"
    for nonsense in (None, "", "soon", "-5", "9" * 40, "1e9", year, zone):
        assert retry_after_s(nonsense) is None


# -- against a server ----------------------------------------------------------------------------------------


def test_robots_txt_is_obeyed_and_asked_for_once(tmp_path: Path) -> None:
    robots = sends(b"User-agent: lavic\nDisallow: /secret/\n")
    with HostileServer({"/robots.txt": robots}) as server:
        server.default = sends(GOOD)
        write_valid(
            tmp_path, {f"a_{i}.jpg": server.url(f"/secret/{i}") for i in range(5)} | {"b_0.jpg": server.url("/b")}
        )
        assert run_command_line(crawl_words(tmp_path)) == 1
        assert server.asked.count("/robots.txt") == 1
        assert [path for path in server.asked if "secret" in path] == []
        assert rows_of(tmp_path)["a_0.jpg"]["error"] == "robots"
        assert run_command_line(crawl_words(tmp_path, ignore_robots=True)) == 0
        assert server.times("/robots.txt") == 1


def test_a_host_whose_robots_txt_is_in_trouble_is_not_crawled_now(tmp_path: Path) -> None:
    with HostileServer({"/robots.txt": sends(b"", 503), "/a": sends(GOOD)}) as server:
        write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        assert run_command_line(crawl_words(tmp_path)) == 1
        assert server.times("/a") == 0
    row = rows_of(tmp_path)["a_0.jpg"]
    assert (row["error"], row["passing"], row["attempts"]) == ("http_503", True, 3)


def test_of_a_long_robots_txt_the_beginning_is_obeyed(tmp_path: Path) -> None:
    robots = sends(b"User-agent: *\nDisallow: /secret/\n" + b"# nothing\n" * 60_000)
    with HostileServer({"/robots.txt": robots}) as server:
        server.default = sends(GOOD)
        write_valid(tmp_path, {"a_0.jpg": server.url("/secret/a"), "b_0.jpg": server.url("/b")})
        assert run_command_line(crawl_words(tmp_path)) == 1
        assert server.asked == ["/robots.txt", "/b"]
    assert rows_of(tmp_path)["a_0.jpg"]["error"] == "robots"


def test_rules_that_are_being_read_are_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavic.crawl.robots.MAX_HOSTS", 1)
    with ExitStack() as stack:
        servers = [stack.enter_context(HostileServer()) for _ in range(4)]
        for server in servers:
            server.default = slowly(sends(GOOD), 0.2)
            server.routes["/robots.txt"] = slowly(sends(b"User-agent: *\nDisallow: /secret\n"), 0.2)
        urls = {f"a_{i}.jpg": server.url("/a") for i, server in enumerate(servers)}
        write_valid(tmp_path, urls | {f"b_{i}.jpg": server.url("/secret") for i, server in enumerate(servers)})
        assert run_command_line(crawl_words(tmp_path, deadline_s=10, timeout_s=8)) == 1
        assert [server.asked[-1] for server in servers] == ["/a"] * 4
    assert [rows_of(tmp_path)[f"{letter}_{i}.jpg"]["error"] for letter in "ab" for i in range(4)] == (
        [None] * 4 + ["robots"] * 4
    )


def test_waiting_for_robots_txt_costs_a_picture_its_time(tmp_path: Path) -> None:
    with HostileServer({"/robots.txt": slowly(sends(b""), 1.2), "/a": slowly(sends(GOOD), 1.2)}) as server:
        write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        # 2 s are enough for either, not for both.
        assert run_command_line(crawl_words(tmp_path, deadline_s=2, timeout_s=10)) == 1
        assert server.asked == ["/robots.txt", "/a"]
        assert rows_of(tmp_path)["a_0.jpg"]["error"] == "deadline"
        server.asked.clear()
        server.routes["/robots.txt"] = drips
        assert run_command_line(crawl_words(tmp_path, deadline_s=1, timeout_s=10)) == 1
        assert server.asked == ["/robots.txt"]
        assert rows_of(tmp_path)["a_0.jpg"]["error"] == "deadline"


def test_a_host_that_wants_a_day_between_requests_holds_nobody_up(tmp_path: Path) -> None:
    with HostileServer({"/robots.txt": sends(b"User-agent: *\nCrawl-delay: 86400\n")}) as server:
        server.default = sends(GOOD)
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(3)})
        assert run_command_line(crawl_words(tmp_path)) == 1
        assert server.asked == ["/robots.txt"]
    rows = rows_of(tmp_path).values()
    assert {(row["error"], row["passing"], row["attempts"]) for row in rows} == {("asked_to_wait", True, 0)}
    assert all("86400 s between requests (robots.txt)" in row["message"] for row in rows)


def test_not_modified_is_no_answer_to_who_has_nothing(tmp_path: Path) -> None:
    with HostileServer() as server:
        server.default = sends(b"", 304)
        write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        for _ in range(2):  # the report stays one that can be read
            assert run_command_line(crawl_words(tmp_path, ignore_robots=True)) == 1
            row = rows_of(tmp_path)["a_0.jpg"]
            assert (row["status"], row["error"], row["http_code"]) == ("failed", "bad_answer", 304)


def test_noai_can_be_ignored_with_a_flag(tmp_path: Path) -> None:
    with HostileServer({"/a": sends(GOOD, X_Robots_Tag="noai")}) as server:
        write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        assert run_command_line(crawl_words(tmp_path, ignore_x_robots_tag=True)) == 0


def test_no_more_than_per_host_at_a_time_over_connections_that_are_used_again(tmp_path: Path) -> None:
    with HostileServer() as server:
        server.default = slowly(sends(GOOD), 0.02)
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(40)})
        assert run_command_line(crawl_words(tmp_path, per_host=3, workers=16, timeout_s=10)) == 0
        assert server.most_at_once == 3
        assert server.connections <= 4  # one more for robots.txt, at most; not 41


def test_a_rate_is_kept(tmp_path: Path) -> None:
    moments: list[float] = []

    async def noted(request: Request) -> None:
        moments.append(time.monotonic())
        await request.answer(GOOD)

    with HostileServer({"/robots.txt": noted}) as server:
        server.default = noted
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(8)})
        assert run_command_line(crawl_words(tmp_path, rate=20, timeout_s=10)) == 0
    assert len(moments) == 9
    assert moments[-1] - moments[0] > 8 * 0.05 * 0.9


def test_retry_after_makes_everyone_wait(tmp_path: Path) -> None:
    moments: list[float] = []

    async def busy(request: Request) -> None:
        moments.append(time.monotonic())
        await request.answer(b"", 429, Retry_After="1")

    async def good(request: Request) -> None:
        moments.append(time.monotonic())
        await request.answer(GOOD)

    with HostileServer({"/0": one_after_another(busy, good)}) as server:
        server.default = good
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(4)})
        assert run_command_line(crawl_words(tmp_path, workers=1, ignore_robots=True)) == 0
    # The first is refused; all others, the second try included, come a second later.
    assert len(moments) == 5
    assert min(moments[1:]) - moments[0] >= 0.99


def test_after_a_pause_the_rate_is_kept(tmp_path: Path) -> None:
    moments: list[float] = []

    async def noted(request: Request) -> None:
        moments.append(time.monotonic())
        await (request.answer(b"", 429, Retry_After="1") if len(moments) == 1 else request.answer(GOOD))

    with HostileServer() as server:
        server.default = noted
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(6)})
        assert run_command_line(crawl_words(tmp_path, rate=5, workers=8, ignore_robots=True)) == 0
    # The turns that fell into the pause are not all taken at its end.
    assert len(moments) == 7
    assert min(moments[1:]) - moments[0] >= 0.99
    assert min(later - before for before, later in itertools.pairwise(moments)) > 0.2 * 0.5


def test_a_host_that_asks_for_hours_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HostileServer() as server:
        server.default = sends(b"", 503, Retry_After="7200")
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(20)})
        assert run_command_line(crawl_words(tmp_path, workers=1, ignore_robots=True)) == 1
        assert len(server.asked) == 1
    first, *others = rows_of(tmp_path).values()
    said = {key: first[key] for key in ("error", "http_code", "message", "passing", "attempts")}
    message = "the host answered 503 and asked to wait 7200 s"
    assert said == {"error": "http_503", "http_code": 503, "message": message, "passing": True, "attempts": 1}
    asked_to_wait = f"127.0.0.1:{server.port} asked to wait 7200 s (Retry-After)"
    assert {(row["error"], row["message"], row["passing"], row["attempts"]) for row in others} == {
        ("asked_to_wait", asked_to_wait, True, 0)
    }
    err = capsys.readouterr().err
    assert f"Warning: {asked_to_wait}, so 19 of its pictures were given up. Run again later with a lower --rate" in err
    assert "did not answer" not in err


def test_a_retry_after_beyond_the_deadline_is_told_as_what_the_host_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with HostileServer() as server:
        server.default = sends(b"", 429, Retry_After="1")
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(12)})
        assert (
            run_command_line(crawl_words(tmp_path, stop_after=12, workers=12, deadline_s=0.9, ignore_robots=True)) == 1
        )
    said = {(row["error"], row["http_code"], row["message"]) for row in rows_of(tmp_path).values()}
    assert said == {("http_429", 429, "the host answered 429 and asked to wait 1 s")}
    err = capsys.readouterr().err
    assert "for the same reason (http_429), so the crawl stops here. The host finds this too much." in err


def test_that_robots_txt_leads_to_a_private_address_is_not_said_of_the_picture(tmp_path: Path) -> None:
    with HostileServer({"/robots.txt": redirects("http://10.0.0.1/robots.txt")}) as server:
        write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        assert run_command_line(crawl_words(tmp_path)) == 1
        assert server.asked == ["/robots.txt"]
    row = rows_of(tmp_path)["a_0.jpg"]
    assert row["message"] == "robots.txt redirects to where 10.0.0.1 is not a public address"
