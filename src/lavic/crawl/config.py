"""Settings of ``lavic crawl``: the files and folders of ``lavic distill``, and how to fetch politely and fast."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import field_validator, model_validator

import lavic
from lavic.config import Settings, setting
from lavic.errors import ConfigError

DATA, PICTURES, OUTPUT, NETWORK, POLITE = "Data", "Pictures", "Output", "Network", "Safety and politeness"

REPORT_NAME, SKIPPED_NAME = "crawl_report.jsonl", "crawl_skipped.jsonl"
USER_AGENT = f"lavic/{lavic.__version__} (fetches product pictures for research; obeys robots.txt as lavic)"


class CrawlSettings(Settings):
    """Which pictures, how they are stored, and how the hosts that have them are asked."""

    train_data: Path = setting(
        Path("data/item2meta_train.json"),
        "Training items with the addresses of their pictures (one JSON object, plain, .zip or .gz).",
        panel=DATA,
    )
    val_data: Path = setting(
        Path("data/item2meta_valid.jsonl"), "Validation pictures with their addresses.", panel=DATA
    )
    train_images_dir: Path = setting(Path("data/train_images"), "Folder for the training pictures.", panel=DATA)
    val_images_dir: Path = setting(Path("data/valid_images"), "Folder for the validation pictures.", panel=DATA)
    train_only: bool = setting(False, "Only the training pictures.", panel=DATA)
    valid_only: bool = setting(False, "Only the validation pictures.", panel=DATA, aliases=["val_only"])
    table: Path | None = setting(
        None,
        "Instead of both: any JSONL, CSV, TSV or Parquet file with an ID and a URL column; its pictures go to "
        "--train_images_dir as ID_0.jpg.",
        panel=DATA,
    )
    id_column: str = setting(
        "id", "Column of --table with the ID or the picture's file name.", panel=DATA, min_length=1
    )
    url_column: str = setting("url", "Column of --table with the address, or a list of them.", panel=DATA, min_length=1)
    images_per_item: int | None = setting(None, "Only the first N pictures of an item.", panel=DATA, ge=1)
    category: str | None = setting(
        None,
        "Only the items that the conversations of a category mention: a folder such as amazon_home beside the "
        "metadata, with train.jsonl, valid.jsonl, test.jsonl.",
        panel=DATA,
        min_length=1,
    )
    sample: int | None = setting(None, "Only N pictures, drawn at random; equal seeds draw the same.", panel=DATA, ge=1)
    seed: int = setting(0, "Seed of --sample.", panel=DATA, ge=0, lt=2**32)

    longest_side: int | None = setting(
        None, "Shrink pictures with a longer side than this many pixels; the five views use 672.", panel=PICTURES, ge=16
    )
    quality: int = setting(90, "JPEG quality where a picture is encoded anew.", panel=PICTURES, ge=1, le=100)
    reencode: Literal["when_needed", "always"] = setting(
        "when_needed",
        "when_needed stores a whole, upright, grey or RGB JPEG within the limits as it came (after decoding it all); "
        "always encodes every picture anew.",
        panel=PICTURES,
    )
    max_bytes: int = setting(16 * 2**20, "Largest download in bytes, unpacked.", panel=PICTURES, ge=1024, le=2**30)
    max_pixels: int = setting(64_000_000, "Most pixels, width times height.", panel=PICTURES, ge=1, le=178_000_000)
    processes: int | None = setting(
        None,
        "Processes that decode, encode and write; unset takes one per core.",
        panel=PICTURES,
        ge=1,
        le=256,
    )

    output: Literal["files", "webdataset"] = setting(
        "files", "A file per picture, or WebDataset shards (tar files of a picture and a JSON each).", panel=OUTPUT
    )
    shard_size: int = setting(1000, "Pictures in a shard.", panel=OUTPUT, ge=1, le=100_000)
    report: Path | None = setting(
        None,
        f"Where the row per picture goes; unset: {REPORT_NAME} beside the folder of pictures, with --table behind the "
        f"folder's name (photos_{REPORT_NAME}).",
        panel=OUTPUT,
    )
    retry_failed: bool = setting(
        False, "Ask only for pictures that failed for a reason that may have passed.", panel=OUTPUT, saved=False
    )
    refresh: bool = setting(
        False, "Ask again for pictures that are there; only changed ones are sent (ETag).", panel=OUTPUT, saved=False
    )
    check_existing: bool = setting(
        False, "Decode the pictures that are there too, and fetch the broken ones again.", panel=OUTPUT, saved=False
    )

    workers: int = setting(64, "Downloads at a time, in all.", panel=NETWORK, ge=1, le=4096)
    per_host: int = setting(64, "Downloads at a time from one host.", panel=NETWORK, ge=1, le=4096)
    timeout_s: float = setting(30, "Seconds for one request, from connecting to the last byte.", panel=NETWORK, gt=0)
    deadline_s: float = setting(
        120, "Seconds for one picture in all, with redirects, retries and the waits between them.", panel=NETWORK, gt=0
    )
    retries: int = setting(3, "Further attempts after a failure that may pass.", panel=NETWORK, ge=0, le=20)
    backoff_s: float = setting(0.5, "First wait between attempts; doubled each time.", panel=NETWORK, gt=0, le=600)
    max_redirects: int = setting(5, "Redirects followed.", panel=NETWORK, ge=0, le=20)
    stop_after: int = setting(
        500, "Stop when nearly all of the last N tries failed for the same reason; 0 never stops.", panel=NETWORK, ge=0
    )
    stop_share: float = setting(0.99, "What is nearly all, for --stop_after.", panel=NETWORK, gt=0.5, le=1)
    dead_after: int = setting(10, "Unanswered requests in a row that make a host dead.", panel=NETWORK, ge=1)
    dead_pause_s: float = setting(
        5,
        "Seconds for which a dead host's pictures wait; asked again in vain, twice as long, and after five pauses in a "
        "row it is given up.",
        panel=NETWORK,
        gt=0,
        le=3600,
    )

    rate: float | None = setting(None, "Most requests per second to one host.", panel=POLITE, gt=0)
    user_agent: str = setting(
        USER_AGENT, "How lavic names itself; its first word is looked up in robots.txt.", panel=POLITE
    )
    ignore_robots: bool = setting(False, "Fetch what robots.txt forbids.", panel=POLITE)
    ignore_x_robots_tag: bool = setting(
        False, "Keep pictures that are sent with X-Robots-Tag: noai or noimageai.", panel=POLITE
    )
    allow_private: tuple[str, ...] = setting(
        (), "Addresses that are not public but may be asked, such as 10.1.0.0/16; may be given again.", panel=POLITE
    )
    max_wait_s: float = setting(
        120,
        "Longest Retry-After or Crawl-delay that is waited for; a longer one ends the host's turn.",
        panel=POLITE,
        gt=0,
    )

    @field_validator("allow_private")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise ValueError(f"{text!r} is not a range of addresses; write 10.1.0.0/16 or 127.0.0.1/32") from None
        return value

    @field_validator("user_agent")
    @classmethod
    def _check_user_agent(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z][\w.-]*(/[\x21-\x7e]+)?( [\x20-\x7e]*)?", value):
            raise ValueError(f"{value!r} is not a User-Agent; write name/version (how to reach you)")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        given = [flag for flag in ("train_only", "valid_only") if getattr(self, flag)]
        given += ["table"] if self.table is not None else []
        if len(given) > 1:
            raise ConfigError("they exclude each other", where=f"--{given[0]} and --{given[1]}")
        if self.retry_failed and self.refresh:
            raise ConfigError("they exclude each other", where="--retry_failed and --refresh")
        for flag in ("refresh", "check_existing"):
            if getattr(self, flag) and self.output == "webdataset":
                raise ConfigError("shards are never changed once written", where=f"--{flag} with --output webdataset")
        if self.train_images_dir == self.val_images_dir and self.table is None:
            where = "--train_images_dir and --val_images_dir"
            raise ConfigError(
                "they are the same folder", where=where, remedy="Give two; names may stand in both files."
            )
        return self

    @property
    def report_path(self) -> Path:
        """Where the row per picture goes."""
        beside = self.val_images_dir if self.valid_only else self.train_images_dir
        return self.report if self.report is not None else self._beside(beside, REPORT_NAME)

    @property
    def skipped_path(self) -> Path:
        """Where the rows go that cannot be used: beside the report."""
        return self._beside(self.report_path, SKIPPED_NAME)

    def _beside(self, path: Path, name: str) -> Path:
        """A file beside a path; tables know nothing of one another, so with them each folder has its own."""
        prefix = f"{self.train_images_dir.absolute().name}_" if self.table is not None else ""
        return path.parent / f"{prefix}{name}"

    @property
    def data_dir(self) -> Path:
        """The folder of the metadata, where the folders of conversations lie."""
        return (self.table or (self.val_data if self.valid_only else self.train_data)).parent
