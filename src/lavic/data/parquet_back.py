"""Parquet files that ``lavic data convert --to parquet`` wrote, back in the public format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.data.listing import rewritten
from lavic.data.outputs import EARLIER_CONVERSION, because_of, converted, output_of, refuse_sources_inside
from lavic.data.parquet import IMAGES, METADATA, NOTE, SPLITS, require_pyarrow
from lavic.errors import InputError, NothingLeftError
from lavic.files import atomic_path, open_regular, safe_join
from lavic.formats import DESCRIPTION_KEY, DESCRIPTIONS_KEY, title_of
from lavic.rows import name_problem, text_problem
from lavic.skipped import SkipLog

NO_ROW = "no row holds the metadata of this item or picture"
_COLUMNS = ("item_id", "image_name", "image", "row_json")
#: What may have been edited; an older file or another tool's may lack them.
_TEXTS = ("title", "description")
#: Rows that are held at a time, each with its picture.
_BATCH = 16


@dataclass
class BackCounts:
    """What was written, by part: entries of the metadata, and pictures.

    Attributes:
        edited: texts that were taken from their columns, since ``row_json`` says otherwise.
    """

    output_dir: Path
    entries: dict[str, int] = field(default_factory=lambda: {"train": 0, "valid": 0})
    pictures: dict[str, int] = field(default_factory=lambda: {"train": 0, "valid": 0})
    edited: dict[str, int] = field(default_factory=lambda: {"titles": 0, "descriptions": 0})
    skipped: int = 0


#: A row's image_name, title and description; None where the file has no such column, or nothing in it.
_Said = tuple[str | None, str | None, str | None]


def read_parquet(source_dir: Path, output_dir: Path, *, overwrite: bool = False) -> BackCounts:
    """From Parquet to the public format.

    Raises:
        InputError: a file is not Parquet, or none that lavic wrote.
        NothingLeftError: no row can be used.
        OutputError: the output folder holds something else, or cannot be written.
        ConfigError: pyarrow is not installed.
    """
    require_pyarrow()
    sources = _files(source_dir)
    refuse_sources_inside(output_dir, [source_dir, *(path for paths in sources.values() for path in paths)])
    with output_of(output_dir, converted(False), EARLIER_CONVERSION, overwrite=overwrite) as output:
        # To the end of each file, before anything is deleted.
        edits = _look_through(sources, source_dir)
        output.begin({"source_dir": str(source_dir), "source_format": "parquet"})
        counts = BackCounts(output_dir)
        for part, paths in sources.items():
            images = output_dir / IMAGES[part]
            images.mkdir(exist_ok=True)
            rows = _entries(part, paths, images, edits, counts, output.skipped)
            ascii_only = _ascii_only(paths[0])
            with atomic_path(output_dir / METADATA[part]) as half, half.open("wb") as stream:
                stream.writelines(rewritten(part, rows, ascii_only))
        counts.skipped = output.skipped.count
        output.finish({})
    return counts


def _files(source_dir: Path) -> dict[str, list[Path]]:
    """Part -> its files, in order, in the folder or in ``data/`` inside."""
    if not source_dir.is_dir():
        raise InputError("there is no such folder", where=str(source_dir), remedy="Give --source_dir.")
    found: dict[str, list[Path]] = {}
    for part, split in SPLITS.items():
        for folder in (source_dir / "data", source_dir):
            paths = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}.parquet"))
            if paths and part not in found:
                found[part] = paths
    if not found:
        problem = "the folder holds no train-*.parquet, train.parquet, validation-*.parquet or validation.parquet"
        raise InputError(problem, where=str(source_dir), remedy="Give --source_dir what --to parquet wrote.")
    return found


def _open(path: Path) -> Any:
    """A Parquet file with the columns that are needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    open_regular(path).close()
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        remedy = "It looks half-copied: copy it again."
        raise InputError("the file cannot be read as Parquet", where=str(path), remedy=remedy) from error
    schema = file.schema_arrow
    missing = [name for name in _COLUMNS if name not in schema.names]
    text = all(pa.types.is_string(schema.field(name).type) for name in _COLUMNS if name not in (*missing, "image"))
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if missing or not text or schema.field("image").type != picture:
        what = f"it has no column {missing[0]}" if missing else "its columns are of other types"
        problem = f"this is not a file of `lavic data convert --to parquet`: {what}"
        raise InputError(problem, where=str(path))
    return file


def _ascii_only(path: Path) -> bool:
    """Whether the training file was escaped; the file's own note says so."""
    with _open(path) as file:
        try:
            return bool(json.loads((file.schema_arrow.metadata or {}).get(NOTE, b"{}")).get("ascii_only"))
        except (ValueError, AttributeError):
            return False


def _look_through(sources: Mapping[str, list[Path]], source_dir: Path) -> dict[str, list[_Said]]:
    """Item of the training file -> what its rows say of it, where it is not what ``row_json`` says.

    Raises:
        InputError: a file cannot be read to its end.
        NothingLeftError: no row can be used.
    """
    edits: dict[str, list[_Said]] = {}
    usable, skipped = False, SkipLog()
    for part, paths in sources.items():
        for _, _, row, raw in _sound_rows(paths, skipped):
            usable = usable or raw is not None
            # Without row_json, another row of the item will tell.
            if part == "train" and (raw is None or _edited(part, raw, [_said(row)], Counter()) != raw):
                edits.setdefault(row["item_id"], []).append(_said(row))
    if not usable:
        raise NothingLeftError("no row can be used" + because_of(skipped), where=str(source_dir))
    return edits


def _sound_rows(
    paths: list[Path], skipped: SkipLog
) -> Iterator[tuple[Path, int, dict[str, Any], dict[str, Any] | None]]:
    """File, number and values of each row that can be used, and its ``row_json``: None where there is none."""
    for path in paths:
        for number, row in enumerate(_table_rows(path), 1):
            key, reason = "item_id", name_problem(row["item_id"])
            if not reason and (row["image"] or {}).get("bytes") is not None:
                key, reason = "image_name", name_problem(row["image_name"])
            raw = _parsed(row["row_json"]) if row["row_json"] is not None else None
            if not reason and raw is None and row["row_json"] is not None:
                key, reason = "row_json", "the text is not a JSON object"
            if reason:
                skipped.add(file=path, where=f"row {number}", key=key, reason=reason)
            else:
                yield path, number, row, raw


def _entries(
    part: str,
    paths: list[Path],
    images: Path,
    edits: dict[str, list[_Said]],
    counts: BackCounts,
    skipped: SkipLog,
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """ID and row of each entry; its pictures are written on the way.

    An entry of the training file has a row per picture. Each holds its metadata, in older files only the first did.
    """
    done: set[str] = set()
    lacking: dict[str, tuple[Path, int]] = {}
    for path, number, row, raw in _sound_rows(paths, skipped):
        item_id, picture = row["item_id"], (row["image"] or {}).get("bytes")
        if picture is not None:
            counts.pictures[part] += _write_picture(safe_join(images, row["image_name"]), picture)
        if part == "train" and item_id in done:
            continue
        if raw is None:
            lacking.setdefault(item_id if part == "train" else row["image_name"], (path, number))
            continue
        counts.entries[part] += 1
        if part == "train":
            done.add(item_id)
        said = edits.get(item_id, []) if part == "train" else [_said(row)]
        yield item_id, _edited(part, raw, said, counts.edited)
    for key, (path, number) in lacking.items():
        if key not in done:
            skipped.add(file=path, where=f"row {number}", key=key or "", reason=NO_ROW)


def _said(row: Mapping[str, Any]) -> _Said:
    return row["image_name"], row.get("title"), row.get("description")


def _edited(part: str, raw: dict[str, Any], said: list[_Said], edited: dict[str, int]) -> dict[str, Any]:
    """An entry with the titles and descriptions of its rows where they say something else; of two titles the first."""
    entry, known = dict(raw), raw.get(DESCRIPTIONS_KEY)
    texts = known if isinstance(known, dict) else {}
    for name, title, description in said:
        if title is not None and entry.get("title") == raw.get("title") and title != _title(raw):
            entry["title"] = title
            edited["titles"] += 1
        before = texts.get(name or "") if part == "train" else raw.get(DESCRIPTION_KEY)
        if description is None or description == ("" if text_problem(before) else before):
            continue
        if part == "valid":
            entry[DESCRIPTION_KEY] = description
        elif name:
            texts = {**texts, name: description}
            entry[DESCRIPTIONS_KEY] = texts
        else:
            continue  # a row of an item without pictures
        edited["descriptions"] += 1
    return entry


def _title(raw: Mapping[str, Any]) -> str:
    title = raw.get("title")
    return title_of(title if isinstance(title, str) else None)


def _write_picture(target: Path, picture: bytes) -> bool:
    """Whether it is a new one."""
    new = not target.exists()
    with atomic_path(target) as half:
        half.write_bytes(picture)
    return new


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    with _open(path) as file:
        schema = file.schema_arrow
        texts = [name for name in _TEXTS if name in schema.names and pa.types.is_string(schema.field(name).type)]
        try:
            for batch in file.iter_batches(batch_size=_BATCH, columns=[*_COLUMNS, *texts]):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            remedy = "It looks half-copied: copy it again."
            raise InputError("the file cannot be read to its end", where=str(path), remedy=remedy) from error


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None
