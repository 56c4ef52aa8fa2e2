"""JSONL, CSV, TSV or Parquet with an ID and a URL column, as rows of (place, ID, addresses)."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lavic.archives import open_text_maybe_zipped
from lavic.errors import ConfigError, InputError
from lavic.files import open_regular
from lavic.rows import MAX_LINE_BYTES, json_kind, read_rows
from lavic.skipped import SkipLog

TableRow = tuple[str, str, list[str]]
_BATCH_ROWS = 4096


def table_rows(path: Path, id_column: str, url_column: str, skipped: SkipLog) -> Iterator[TableRow]:
    """Each row that has an ID; one without an address has a single empty one.

    Args:
        path: read as CSV if its name ends in .csv, as TSV if in .tsv, as Parquet if in .parquet or .pq, else as
            JSONL; all but Parquet may be packed as .gz.

    Raises:
        InputError: the file cannot be used, or lacks a column.
        ConfigError: it is Parquet and pyarrow is not installed.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        rows = _csv_rows(path, "\t" if name.endswith(".tsv") else ",", (id_column, url_column))
    elif name.endswith((".parquet", ".pq")):
        rows = _parquet_rows(path, (id_column, url_column))
    else:
        rows = _jsonl_rows(path, (id_column, url_column), skipped)
    for place, item_id, urls in rows:
        if isinstance(item_id, int) and not isinstance(item_id, bool):
            item_id = str(item_id)
        if not isinstance(item_id, str) or not item_id.strip():
            skipped.add(file=path, where=place, key=id_column, reason="there is no ID")
            continue
        listed = urls if isinstance(urls, list) else [urls]
        texts = [url if isinstance(url, str) else "" for url in listed] or [""]
        yield place, item_id, texts


def _jsonl_rows(path: Path, columns: tuple[str, str], skipped: SkipLog) -> Iterator[tuple[str, Any, Any]]:
    found = dict.fromkeys(columns, False)
    for number, row in read_rows(path, skipped):
        for column in columns:
            found[column] = found[column] or column in row
        item_id, urls = (row.get(column) for column in columns)
        if columns[0] in row and not isinstance(item_id, str | int):
            kind = json_kind(item_id)
            skipped.add(file=path, where=f"line {number}", key=columns[0], reason=f"the value is {kind}, not text")
            continue
        yield f"line {number}", item_id, urls
    _require(path, columns, [column for column in columns if found[column]])


def _require(path: Path, columns: tuple[str, str], there: list[str]) -> None:
    for column, flag in zip(columns, ("--id_column", "--url_column"), strict=True):
        if column not in there:
            raise InputError(
                f"there is no column {column!r}", where=str(path), remedy=f"{flag} names the one that is meant."
            )


def _csv_rows(path: Path, delimiter: str, columns: tuple[str, str]) -> Iterator[tuple[str, Any, Any]]:
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        with open_text_maybe_zipped(path) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            reader = csv.DictReader(text, delimiter=delimiter)
            _require(path, columns, list(reader.fieldnames or []))
            for row in reader:
                yield f"line {reader.line_num}", row.get(columns[0]), row.get(columns[1])
            text.detach()
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", where=str(path)) from error
    except csv.Error as error:
        raise InputError(f"the file is not CSV ({error})", where=str(path)) from error
    finally:
        csv.field_size_limit(before)


def _parquet_rows(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, Any, Any]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        remedy = "Run `pip install pyarrow`, or give the table as CSV or JSONL."
        raise ConfigError(
            "reading Parquet needs pyarrow, which is not installed", where=str(path), remedy=remedy
        ) from (error)
    with open_regular(path) as stream:
        try:
            table = parquet.ParquetFile(stream)
            _require(path, columns, list(table.schema_arrow.names))
            number = 0
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row[columns[0]], row[columns[1]]
        except (OSError, ValueError) as error:
            # pyarrow's own errors are ValueErrors.
            raise InputError(f"the file is not Parquet ({str(error)[:100]})", where=str(path)) from error
