"""Runs that are killed, interrupted or run out of disk: nothing half-written, nothing asked for twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_server import (
    HostileServer,
    crawl_words,
    names_in,
    picture_bytes,
    rows_of,
    sends,
    slowly,
    write_valid,
)
from PIL import Image

from lavic.cli.main import run_command_line

PICTURES = 60


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        for i in range(PICTURES):
            server.routes[f"/{i}"] = slowly(sends(picture_bytes(size=(300, 200), number=i)), 0.03)
        yield server


def prepare(folder: Path, server: HostileServer, **more: Any) -> list[str]:
    write_valid(folder, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(PICTURES)})
    return crawl_words(folder, workers=2, timeout_s=20, deadline_s=60, ignore_robots=True, **more)


def start(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lavic.cli.main", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if holds():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def written(folder: Path) -> int:
    path = folder / "crawl_report.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def picture_processes(parent: int) -> list[int]:
    """The processes that a crawl has started (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def gone(number: int) -> bool:
    """Whether a process has ended (one that nobody has waited for still has a name)."""
    with contextlib.suppress(OSError):
        return "State:\tZ" in Path(f"/proc/{number}/status").read_text()
    return True


def all_whole(folder: Path) -> set[str]:
    names = {name for name in names_in(folder) if not name.startswith(".")}
    for name in names:
        with Image.open(folder / name) as image:
            image.load()
    return names


def test_a_killed_run_leaves_whole_pictures_and_goes_on_with_the_rest(tmp_path: Path, server: HostileServer) -> None:
    words = prepare(tmp_path, server)
    process = start(words)
    wait_until(lambda: written(tmp_path) >= 10, process)
    children = picture_processes(process.pid)
    assert children
    process.kill()
    process.wait()
    for _ in range(1000):
        if all(map(gone, children)):
            break
        time.sleep(0.01)
    assert all(map(gone, children))
    process.communicate()
    there = all_whole(tmp_path / "valid_images")
    assert 10 <= len(there) < PICTURES
    server.asked.clear()
    assert run_command_line(words) == 0
    asked = {f"a_{path[1:]}.jpg" for path in server.asked}
    assert len(server.asked) == len(asked)
    assert asked & there == set()
    assert all_whole(tmp_path / "valid_images") == {f"a_{i}.jpg" for i in range(PICTURES)}
    assert names_in(tmp_path / "valid_images") == set(rows_of(tmp_path))


def test_a_killed_run_into_shards_goes_on_with_the_rest(tmp_path: Path, server: HostileServer) -> None:
    import tarfile

    words = prepare(tmp_path, server, output="webdataset", shard_size=8)
    process = start(words)
    wait_until(lambda: written(tmp_path) >= 12, process)
    process.kill()
    process.communicate()
    done = {json.loads(line)["image_name"] for line in (tmp_path / "crawl_report.jsonl").read_text().splitlines()[:-1]}
    server.asked.clear()
    assert run_command_line(words) == 0
    assert {f"a_{path[1:]}.jpg" for path in server.asked} & done == set()
    names = []
    for path in sorted((tmp_path / "valid_images").glob("shard-*.tar")):
        with tarfile.open(path) as archive:
            names += [member.name for member in archive if member.name.endswith(".jpg")]
    assert sorted(names) == sorted(f"a_{i}.jpg" for i in range(PICTURES))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_what_is_under_way_and_says_how_to_go_on(
    tmp_path: Path, server: HostileServer, kind: signal.Signals
) -> None:
    process = start(prepare(tmp_path, server))
    wait_until(lambda: written(tmp_path) >= 5, process)
    os.killpg(process.pid, kind) if kind == signal.SIGINT else process.send_signal(kind)  # a terminal asks the group
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "stopping: downloads under way are being finished; once more stops at once." in err
    assert err.splitlines()[-1] == ("Error: interrupted. Run the same command again; it fetches only what is missing.")
    rows = rows_of(tmp_path)
    assert 5 <= len(rows) < PICTURES
    assert {name for name, row in rows.items() if row["status"] == "ok"} == all_whole(tmp_path / "valid_images")
    assert names_in(tmp_path / "valid_images") == set(rows)


def test_a_second_ctrl_c_does_not_wait_for_a_slow_host(tmp_path: Path) -> None:
    with HostileServer() as server:
        server.default = slowly(sends(picture_bytes()), 60)
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(5)})
        process = start(crawl_words(tmp_path, timeout_s=100, deadline_s=100, ignore_robots=True))
        wait_until(lambda: len(server.asked) == 5, process)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "once more" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - begun < 9  # the grace of the first one is ten seconds
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert names_in(tmp_path / "valid_images") == set()


@pytest.mark.parametrize("output", ["files", "webdataset"])
def test_a_full_disk_ends_the_run_with_one_sentence(tmp_path: Path, output: str) -> None:
    noisy = Image.effect_noise((300, 300), 90).convert("RGB")
    noisy.save(tmp_path / "noise.jpg", quality=95)
    with HostileServer() as server:
        server.default = sends((tmp_path / "noise.jpg").read_bytes())
        write_valid(tmp_path, {f"a_{i}.jpg": server.url(f"/{i}") for i in range(5)})
        words = crawl_words(tmp_path, output=output)
        # No file may grow beyond 16 KiB; the picture has more than twice that.
        limited = ["sh", "-c", 'ulimit -f 32; exec "$@"', "sh", sys.executable, "-m", "lavic.cli.main", *words]
        done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1
        assert "cannot be written (File too large)" in errors[0]
        assert "Traceback" not in done.stderr
        assert {name for name in names_in(tmp_path / "valid_images") if not name.startswith(".")} == set()
        # With room again, the same command does it all.
        assert run_command_line(words) == 0
