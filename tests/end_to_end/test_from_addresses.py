"""From metadata with addresses to an adapter, by commands alone: crawl, describe, distill, and the page."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from small_world import flags, train_rows

from lavic.cli.main import run_command_line
from lavic.formats import DESCRIPTION_KEY, DESCRIPTIONS_KEY
from lavic.layout import TRAIN_IMAGES, VALID_IMAGES, VALID_METADATA, data_paths

ROOT = Path(__file__).resolve().parents[2]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # with the default of 5 connections are dropped, and made again a second later


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's files on loopback; yields their address."""
    with _Server(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def run(command: str, world: Path, *more: str) -> int:
    """A command on the data set of a folder."""
    paths = [word for name, path in data_paths(world).items() for word in (f"--{name}", str(path))]
    return run_command_line([command, *paths, *more])


def from_addresses_to_an_adapter(world: Path, output: Path) -> None:
    """Crawl, describe, distill and look; the addresses in the metadata are served."""
    assert run("crawl", world, "--allow_private", "127.0.0.1/32") == 0
    assert run("describe", world, "--model", "tiny", "--num_workers", "1", "--max_new_tokens", "40") == 0
    assert run_command_line(flags(world, output, max_steps=2)) == 0
    adapter = output / "vision_lora_adapter_best"
    page = output / "page.html"
    more = ("--model", "tiny", "--adapter", str(adapter), "--sample", "3", "--page", str(page))
    assert run("describe", world, *more) == 0
    assert page.read_text().count("<img") == 3


def addressed(world: Path) -> dict[str, list[str]]:
    """By folder, the picture names that the metadata have addresses of."""
    lines = [json.loads(line) for line in (world / VALID_METADATA).read_text().splitlines()]
    train = [f"{item}_{n}.jpg" for item, row in train_rows(world).items() for n in range(len(row["images"]))]
    return {TRAIN_IMAGES: train, VALID_IMAGES: [line["image_name"] for line in lines]}


def test_a_drawn_shop(tmp_path):
    world = tmp_path / "shop"
    with served(tmp_path) as address:
        shop = ["toyshop", "--output_dir", str(world), "--items", "14", "--served_at", f"{address}/shop/pictures"]
        assert run_command_line([*shop, "--workers", "0"]) == 0
        from_addresses_to_an_adapter(world, tmp_path / "out")
    for folder, names in addressed(world).items():
        assert {path.name for path in (world / folder).iterdir() if path.suffix == ".jpg"} == set(names)
    for item, row in train_rows(world).items():
        assert row[DESCRIPTIONS_KEY][f"{item}_0.jpg"].endswith(".")
    lines = [json.loads(line) for line in (world / VALID_METADATA).read_text().splitlines()]
    assert all(line[DESCRIPTION_KEY].endswith(".") for line in lines)


def documented(marker: str) -> list[str]:
    """The commands of the block in README.md that names this file; README.zh-CN.md has the same."""
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    block = english.partition(marker)[2].partition("```sh\n")[2].partition("```")[0]
    assert block in chinese
    return [line for line in block.splitlines() if line]


def test_real_photographs_by_the_documented_commands(tmp_path, shared_data, monkeypatch):
    convert, serve, *others = documented("<!-- run by tests/end_to_end/test_from_addresses.py -->")
    assert serve.startswith("python3 -m http.server 8001 --bind 127.0.0.1 --directory data/pictures ")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "catalogue").symlink_to(shared_data / "catalogue")
    pictures = tmp_path / "data" / "pictures"
    with served(pictures) as address:
        assert run_command_line(words(convert.replace("http://127.0.0.1:8001", address))) == 0
        for command in others:
            short = ["--max_steps", "2"] if "distill " in command else []
            assert run_command_line([*words(command), *short]) == 0
    assert (tmp_path / "descriptions.html").read_text().count("<img") == 20
    world = tmp_path / "data"
    crawled = [path for folder in (TRAIN_IMAGES, VALID_IMAGES) for path in (world / folder).glob("*.jpg")]
    assert len(crawled) == len(list(pictures.iterdir())) == 304  # as the catalogue's README counts
    # The tiny teacher knows the shop's words only; whole sentences of them are what it says of most photographs.
    described = [text for row in train_rows(world).values() for text in row[DESCRIPTIONS_KEY].values()]
    lines = [json.loads(line) for line in (world / VALID_METADATA).read_text().splitlines()]
    described += [line[DESCRIPTION_KEY] for line in lines]
    assert sum(map(bool, described)) > 200  # 115 came with a text


def words(command: str) -> list[str]:
    """A documented command without the name of the program and what is said about it."""
    program, *rest = shlex.split(command, comments=True)
    assert program == "lavic"
    return rest
