"""Runs after runs: only what is missing is asked for, nothing is deleted, exit codes and sentences."""

from __future__ import annotations

import fcntl
import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hostile_server import (
    HostileServer,
    Request,
    crawl_words,
    names_in,
    one_after_another,
    picture_bytes,
    rows_of,
    sends,
    write_valid,
)
from small_world import refused

from lavic.cli.main import run_command_line

GOOD = picture_bytes()


def asked(server: HostileServer) -> list[str]:
    """What was asked for since the last call, sorted, without robots.txt."""
    paths = sorted(path for path in server.asked if path != "/robots.txt")
    server.asked.clear()
    return paths


def test_a_second_run_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    with HostileServer({"/a": sends(GOOD), "/b": one_after_another(sends(b"", 404), sends(GOOD))}) as server:
        write_valid(tmp_path, {"a_0.jpg": server.url("/a"), "b_0.jpg": server.url("/b")})
        assert run_command_line(crawl_words(tmp_path)) == 1
        assert asked(server) == ["/a", "/b"]
        assert run_command_line(crawl_words(tmp_path)) == 0
        assert asked(server) == ["/b"]
        assert run_command_line(crawl_words(tmp_path)) == 0
        assert server.asked == []
    rows = rows_of(tmp_path)
    assert {name: row["status"] for name, row in rows.items()} == {"a_0.jpg": "ok", "b_0.jpg": "ok"}
    assert rows["a_0.jpg"]["sha256"] == hashlib.sha256(GOOD).hexdigest()


def test_retry_failed_asks_only_where_the_reason_may_have_passed(tmp_path: Path) -> None:
    handlers = {"/gone": sends(b"", 404), "/page": sends(b"<html>"), "/busy": sends(b"", 503), "/a": sends(GOOD)}
    with HostileServer(handlers) as server:
        urls = {f"{path[1:]}_0.jpg": server.url(path) for path in handlers}
        write_valid(tmp_path, urls)
        assert run_command_line(crawl_words(tmp_path, retries=0)) == 1
        asked(server)
        write_valid(tmp_path, urls | {"new_0.jpg": server.url("/a")})
        server.routes["/busy"] = sends(GOOD)
        assert run_command_line(crawl_words(tmp_path, retry_failed=True)) == 1
        assert asked(server) == ["/busy"]
    assert names_in(tmp_path / "valid_images") == {"a_0.jpg", "busy_0.jpg"}
    assert rows_of(tmp_path)["gone_0.jpg"]["error"] == "http_404"


def test_refresh_sends_the_etag_and_keeps_what_has_not_changed(tmp_path: Path) -> None:
    new = picture_bytes(number=9)

    async def tagged(request: Request) -> None:
        if request.headers.get("if-none-match") == '"1"':
            await request.answer(b"", 304)
        else:
            await request.answer(GOOD, ETag='"1"')

    handlers = {"/same": tagged, "/new": one_after_another(sends(GOOD, ETag='"2"'), sends(new, ETag='"3"'))}
    handlers["/dies"] = one_after_another(sends(GOOD, ETag='"4"'), sends(b"", 404))
    with HostileServer(handlers) as server:
        write_valid(tmp_path, {f"{path[1:]}_0.jpg": server.url(path) for path in handlers})
        assert run_command_line(crawl_words(tmp_path)) == 0
        asked(server)
        # All pictures are there in the end, also the one that its host no longer has.
        assert run_command_line(crawl_words(tmp_path, refresh=True)) == 0
        assert asked(server) == ["/dies", "/new", "/same"]
        assert [headers.get("if-none-match") for headers in server.headers["/new"]] == [None, '"2"']
    folder, rows = tmp_path / "valid_images", rows_of(tmp_path)
    assert (folder / "same_0.jpg").read_bytes() == (folder / "dies_0.jpg").read_bytes() == GOOD
    assert (folder / "new_0.jpg").read_bytes() == new
    facts = {name: (row["status"], row["etag"], row["sha256"]) for name, row in rows.items()}
    old = hashlib.sha256(GOOD).hexdigest()
    assert facts == {
        "same_0.jpg": ("unchanged", '"1"', old),
        "new_0.jpg": ("ok", '"3"', hashlib.sha256(new).hexdigest()),
        "dies_0.jpg": ("failed", '"4"', old),
    }
    assert rows["dies_0.jpg"]["kept"] is True


def test_a_failed_refresh_and_a_plain_run_forget_nothing(tmp_path: Path) -> None:
    answers = one_after_another(sends(GOOD, ETag='"1"'), sends(b"", 404), sends(b"", 304))
    with HostileServer({"/a": answers}) as server:
        write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        assert run_command_line(crawl_words(tmp_path)) == 0
        first = rows_of(tmp_path)["a_0.jpg"]
        facts = {key: first[key] for key in ("url", "bytes", "size", "sha256", "etag", "as_it_came")}
        for more, status, error in (
            ({"refresh": True}, "failed", "http_404"),
            ({}, "present", None),
            ({"refresh": True}, "unchanged", None),
        ):
            assert run_command_line(crawl_words(tmp_path, **more)) == 0
            row = rows_of(tmp_path)["a_0.jpg"]
            assert (row["status"], row["error"]) == (status, error)
            assert {key: row.get(key) for key in facts} == facts
        assert [headers.get("if-none-match") for headers in server.headers["/a"]] == [None, '"1"', '"1"']


def test_an_etag_is_of_one_address_and_one_file(tmp_path: Path) -> None:
    new = picture_bytes(size=(80, 60))
    with HostileServer() as server:
        server.default = sends(GOOD, ETag='"1"')
        paths = {"same_0.jpg": "/same", "moved_0.jpg": "/old", "touched_0.jpg": "/touched"}
        write_valid(tmp_path, {name: server.url(path) for name, path in paths.items()})
        assert run_command_line(crawl_words(tmp_path)) == 0
        paths["moved_0.jpg"] = "/new"
        write_valid(tmp_path, {name: server.url(path) for name, path in paths.items()})
        (tmp_path / "valid_images" / "touched_0.jpg").write_bytes(new)
        # Two runs: what a failure leaves in the report must not be taken for the new address's.
        server.default = sends(b"", 503)
        assert run_command_line(crawl_words(tmp_path, refresh=True, retries=0, ignore_robots=True)) == 0
        assert run_command_line(crawl_words(tmp_path, refresh=True, retries=0, ignore_robots=True)) == 0
    sent = {path: {headers.get("if-none-match") for headers in server.headers[path][-2:]} for path in paths.values()}
    assert sent == {"/same": {'"1"'}, "/new": {None}, "/touched": {None}}
    rows = rows_of(tmp_path)
    old = hashlib.sha256(GOOD).hexdigest()
    assert {name: row["sha256"] for name, row in rows.items()} == {
        "same_0.jpg": old,
        "moved_0.jpg": old,
        "touched_0.jpg": None,
    }


def test_a_broken_file_that_cannot_be_fetched_again_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "valid_images"
    folder.mkdir()
    (folder / "a_0.jpg").write_bytes(b"<html>saved as a picture")
    (folder / "b_0.jpg").write_bytes(GOOD)
    with HostileServer() as server:
        write_valid(tmp_path, {name: server.url(f"/{name}") for name in ("a_0.jpg", "b_0.jpg")})
        assert run_command_line([*crawl_words(tmp_path, check_existing=True), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["already_there"], document["failed"], document["missing"]) == (1, 1, 1)
    row = rows_of(tmp_path)["a_0.jpg"]
    assert (row["status"], row["error"], "kept" in row) == ("failed", "http_404", False)
    assert (folder / "a_0.jpg").read_bytes() == b"<html>saved as a picture"


def test_files_that_others_made_are_left_alone_unless_they_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "valid_images"
    folder.mkdir()
    (folder / "mine_0.jpg").write_bytes(b"<html>saved as a picture")
    (folder / "empty_0.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("keep me")
    with HostileServer() as server:
        server.default = sends(GOOD)
        write_valid(tmp_path, {"mine_0.jpg": server.url("/mine"), "empty_0.jpg": server.url("/empty")})
        assert run_command_line(crawl_words(tmp_path)) == 0
        assert asked(server) == ["/empty"]
        assert (folder / "mine_0.jpg").read_bytes() == b"<html>saved as a picture"
        assert rows_of(tmp_path)["mine_0.jpg"]["status"] == "present"
        assert run_command_line(crawl_words(tmp_path, check_existing=True)) == 0
        assert asked(server) == ["/mine"]
    assert (folder / "mine_0.jpg").read_bytes() == GOOD
    assert names_in(folder) == {"mine_0.jpg", "empty_0.jpg", "notes.txt"}


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "valid_images", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "link_0.jpg").symlink_to(outside / "stolen.jpg")
    (folder / "dir_0.jpg").mkdir()
    with HostileServer() as server:
        server.default = sends(GOOD)
        names = ["../up_0.jpg", "/etc/up_0.jpg", ".hidden_0.jpg", "a\x00b_0.jpg", "link_0.jpg", "dir_0.jpg", "x" * 300]
        write_valid(tmp_path, {name: server.url(f"/{i}") for i, name in enumerate(names)})
        assert run_command_line(crawl_words(tmp_path)) == 1
        assert asked(server) == []
    assert {name: row["error"] for name, row in rows_of(tmp_path).items()} == dict.fromkeys(
        ("link_0.jpg", "dir_0.jpg"), "bad_name"
    )
    listed = [json.loads(line) for line in (tmp_path / "crawl_skipped.jsonl").read_text().splitlines()]
    assert len(listed) == 5
    assert list(outside.iterdir()) == []


def test_a_crawl_that_is_pointless_stops_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HostileServer() as server:
        server.default = sends(b"", 403)
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(400)})
        assert run_command_line(crawl_words(tmp_path, stop_after=50, workers=4, ignore_robots=True)) == 1
        assert 50 <= len(server.asked) <= 50 + 2 * 4 + 4
    out, err = capsys.readouterr()
    assert "50 of the last 50 pictures failed for the same reason (http_403), so the crawl stops here." in err
    assert "--user_agent" in err
    assert "missing" in out
    assert out.splitlines()[-1].startswith("Next: mend the cause")


def test_a_mixture_of_reasons_stops_nothing(tmp_path: Path) -> None:
    with HostileServer() as server:
        server.default = sends(b"", 403)
        server.routes |= {f"/{i}": sends(GOOD) for i in range(0, 60, 10)}
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(60)})
        assert run_command_line(crawl_words(tmp_path, stop_after=20, workers=1, ignore_robots=True)) == 1
        assert len(server.asked) == 60


def test_the_summary_and_the_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HostileServer({"/a": sends(GOOD), "/b": sends(b"", 404), "/c": sends(b"", 503)}) as server:
        write_valid(tmp_path, {f"{name}_0.jpg": server.url(f"/{name}") for name in "abc"})
        assert run_command_line([*crawl_words(tmp_path), "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert {key: document[key] for key in ("pictures", "fetched", "failed", "missing", "reasons")} == {
            "pictures": 3,
            "fetched": 1,
            "failed": 2,
            "missing": 2,
            "reasons": {"http_404": 1, "http_503": 1},
        }
        assert run_command_line(crawl_words(tmp_path)) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Next: the same command with --retry_failed asks again for 1 whose reason may have passed."


def test_a_name_resolved_inside_is_refused(tmp_path: Path) -> None:
    with HostileServer() as server:
        server.default = sends(GOOD)
        write_valid(tmp_path, {"a_0.jpg": f"http://localhost:{server.port}/a"})
        assert run_command_line(crawl_words(tmp_path, allow_private="10.0.0.0/8")) == 1
        assert server.connections == 0
        assert rows_of(tmp_path)["a_0.jpg"]["error"] == "not_allowed_address"
        assert run_command_line(crawl_words(tmp_path)) == 0


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_valid(tmp_path, {"a_0.jpg": "http://127.0.0.1:1/a"})
    (tmp_path / "valid_images").mkdir()
    with (tmp_path / "valid_images" / ".lavic.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is writing here. Wait until it ends, or name another folder." in refused(capsys, crawl_words(tmp_path))
    with (tmp_path / "crawl_report.jsonl").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is writing here" in refused(capsys, crawl_words(tmp_path))


def test_the_picture_processes_count_among_the_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    write_valid(tmp_path, {"a_0.jpg": "http://127.0.0.1:1/a"})
    assert refused(capsys, crawl_words(tmp_path, workers=30, processes=7)).endswith(
        "--workers: 30 connections at a time and 7 picture processes need 101 open files; this system allows 100. "
        "Lower it, or raise `ulimit -n`."
    )
    assert run_command_line(crawl_words(tmp_path, workers=30, processes=6)) == 1


def test_a_file_that_is_no_report_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_valid(tmp_path, {"a_0.jpg": "http://127.0.0.1:1/a"})
    sentence = refused(capsys, crawl_words(tmp_path, report=tmp_path / "item2meta_valid.jsonl"))
    assert "line 1: the line is not a row of a crawl's report. Name another --report" in sentence
    assert json.loads((tmp_path / "item2meta_valid.jsonl").read_text())["image_name"] == "a_0.jpg"


def test_shards_hold_all_pictures_once_over_several_runs(tmp_path: Path) -> None:
    import tarfile

    with HostileServer() as server:
        for i in range(7):
            server.routes[f"/{i}"] = sends(picture_bytes(number=i))
        urls = {f"a.{i}_0.jpg": server.url(f"/{i}") for i in range(7)}
        urls["b_0.png"] = server.url("/gone")
        write_valid(tmp_path, urls)
        words = crawl_words(tmp_path, output="webdataset", shard_size=3)
        assert run_command_line(words) == 1
        asked(server)
        server.routes["/gone"] = sends(picture_bytes("PNG"))
        assert run_command_line(words) == 0
        assert asked(server) == ["/gone"]
    folder = tmp_path / "valid_images"
    assert names_in(folder) == {f"shard-{i:06d}.tar" for i in range(4)}
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            names = archive.getnames()
            assert all(name.count(".") == 1 for name in names)  # one key, one ending
            for name in names[1::2]:
                facts = json.loads(archive.extractfile(name).read())  # type: ignore[union-attr]
                data = archive.extractfile(name.replace(".json", ".jpg")).read()  # type: ignore[union-attr]
                assert hashlib.sha256(data).hexdigest() == facts["sha256"]
                assert rows_of(tmp_path)[facts["image_name"]]["shard"] == path.name
                found[facts["image_name"]] = facts
    assert set(found) == set(urls)


# -- what is told at the end -------------------------------------------------------------------------------------


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_retry_failed_says_what_was_never_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HostileServer() as server:
        urls = {"gone_0.jpg": server.url("/gone")}
        write_valid(tmp_path, urls)
        assert run_command_line(crawl_words(tmp_path)) == 1
        write_valid(tmp_path, urls | {f"new_{i}.jpg": server.url(f"/{i}") for i in range(2)})
        capsys.readouterr()
        assert run_command_line([*crawl_words(tmp_path, retry_failed=True), "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert (document["missing"], document["not_asked"], document["never_asked"]) == (3, 3, 2)
        assert run_command_line(crawl_words(tmp_path, retry_failed=True)) == 1
    assert last_line(capsys) == (
        "2 were never asked for: run the same command without --retry_failed. "
        f"{tmp_path}/crawl_report.jsonl says why each of the others is missing; training leaves those out."
    )


def test_rows_that_cannot_be_used_are_an_answer_of_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HostileServer() as server:
        server.default = sends(GOOD)
        write_valid(tmp_path, {"a_0.jpg": server.url("/a"), "../x_0.jpg": server.url("/x")})
        assert run_command_line([*crawl_words(tmp_path), "--json"]) == 1
        document = json.loads(capsys.readouterr().out)
        assert (document["pictures"], document["missing"], document["unusable_rows"]) == (1, 0, 1)
        assert run_command_line(crawl_words(tmp_path)) == 1
    skipped = tmp_path / "crawl_skipped.jsonl"
    wanted = f"All pictures are there but those of 1 row that cannot be used: see {skipped}. Next: lavic describe "
    assert last_line(capsys).startswith(wanted)


def test_the_next_command_is_the_one_that_can_use_the_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = f"--train_data data/item2meta_train.json --val_data {tmp_path}/item2meta_valid.jsonl"
    flags += f" --train_images_dir data/train_images --val_images_dir {tmp_path}/valid_images"
    with HostileServer() as server:
        server.default = sends(GOOD)
        path = write_valid(tmp_path, {"a_0.jpg": server.url("/a")})
        assert run_command_line(crawl_words(tmp_path)) == 0
        assert last_line(capsys) == f"All pictures are there. Next: lavic describe {flags} --valid_only"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_description_llava_cleaned": "A mug."}))
        assert run_command_line(crawl_words(tmp_path)) == 0
        assert last_line(capsys) == f"All pictures are there. Next: lavic check {flags}"
        # Nothing reads shards.
        assert run_command_line(crawl_words(tmp_path, output="webdataset", val_images_dir=tmp_path / "shards")) == 0
        assert last_line(capsys) == "All pictures are there."


def test_the_drawn_shops_crawl_command_may_ask_its_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = ["toyshop", "--output_dir", str(tmp_path / "shop"), "--items", "12", "--workers", "0"]
    assert run_command_line([*shop, "--served_at", "http://127.0.0.1:8000/shop"]) == 0
    assert last_line(capsys).endswith("/valid_images --allow_private 127.0.0.1/32")


# -- what the report says of files that were there -----------------------------------------------------------------


def test_a_row_that_a_killed_run_could_not_write_is_made_up_for(tmp_path: Path) -> None:
    (tmp_path / "valid_images").mkdir()
    (tmp_path / "valid_images" / "a_0.jpg").write_bytes(GOOD)
    write_valid(tmp_path, {"a_0.jpg": "http://127.0.0.1:1/a"})
    # What is said is of the file, not of what would be made of it now.
    assert run_command_line(crawl_words(tmp_path, longest_side=16)) == 0
    row = rows_of(tmp_path)["a_0.jpg"]
    facts = (row["status"], row["bytes"], row["size"], row["sha256"])
    assert facts == ("present", len(GOOD), [40, 30], hashlib.sha256(GOOD).hexdigest())


def test_tables_into_two_folders_have_a_report_each(tmp_path: Path) -> None:
    with HostileServer({"/a": sends(GOOD)}) as server:
        for name, path in (("one", "/a"), ("two", "/gone")):
            (tmp_path / f"{name}.csv").write_text(f"id,url\nA,{server.url(path)}\n../B,{server.url(path)}\n")
            words = {"table": tmp_path / f"{name}.csv", "train_images_dir": tmp_path / name, "valid_only": False}
            assert run_command_line(crawl_words(tmp_path, **words)) == 1
    rows = [json.loads((tmp_path / f"{name}_crawl_report.jsonl").read_text()) for name in ("one", "two")]
    assert [(row["image_name"], row["status"]) for row in rows] == [("A_0.jpg", "ok"), ("A_0.jpg", "failed")]
    assert {path.name for path in tmp_path.glob("*skipped*")} == {
        f"{name}_crawl_skipped.jsonl" for name in ("one", "two")
    }
