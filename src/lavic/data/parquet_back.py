"""Parquet files that ``lavic data convert --to parquet`` wrote, back in the public format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.data.listing import rewritten
from lavic.data.outputs import CONVERTED_MARKER, prepare_conversion, refuse_sources_inside
from lavic.data.parquet import IMAGES, METADATA, NOTE, SPLITS, require_pyarrow
from lavic.errors import InputError, NothingLeftError
from lavic.files import FolderLock, atomic_path, open_regular, safe_join, write_json
from lavic.rows import name_problem
from lavic.skipped import SkipLog

NO_ROW = "no row holds the metadata of this item or picture"
_COLUMNS = ("item_id", "image_name", "image", "row_json")
#: Rows that are held at a time, each with its picture.
_BATCH = 16


@dataclass
class BackCounts:
    """What was written, by part: entries of the metadata, and pictures."""

    output_dir: Path
    entries: dict[str, int] = field(default_factory=lambda: {"train": 0, "valid": 0})
    pictures: dict[str, int] = field(default_factory=lambda: {"train": 0, "valid": 0})
    skipped: int = 0


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
    with FolderLock(output_dir):
        prepare_conversion(output_dir, overwrite=overwrite)
        write_json(output_dir / CONVERTED_MARKER, {"source_dir": str(source_dir), "source_format": "parquet"})
        counts = BackCounts(output_dir)
        with SkipLog(output_dir / "skipped.jsonl") as skipped:
            for part, paths in sources.items():
                images = output_dir / IMAGES[part]
                images.mkdir(exist_ok=True)
                rows = _entries(part, paths, images, counts, skipped)
                ascii_only = _ascii_only(paths[0])
                with atomic_path(output_dir / METADATA[part]) as half, half.open("wb") as stream:
                    stream.writelines(rewritten(part, rows, ascii_only))
            counts.skipped = skipped.count
        if not sum(counts.entries.values()):
            raise NothingLeftError("no row can be used", where=str(source_dir))
    return counts


def _files(source_dir: Path) -> dict[str, list[Path]]:
    """Part -> its files, in order, in the folder or in ``data/`` inside."""
    if not source_dir.is_dir():
        raise InputError("there is no such folder", where=str(source_dir), remedy="Give --source_dir.")
    found: dict[str, list[Path]] = {}
    for part, split in SPLITS.items():
        for folder in (source_dir / "data", source_dir):
            paths = sorted(path for path in folder.glob(f"{split}-*.parquet") if not path.name.startswith("."))
            if paths and part not in found:
                found[part] = paths
    if not found:
        problem = "the folder holds no train-*.parquet and no validation-*.parquet"
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


def _entries(
    part: str, paths: list[Path], images: Path, counts: BackCounts, skipped: SkipLog
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """ID and row of each entry; its pictures are written on the way.

    An entry of the training file has a row per picture. Each holds its metadata, in older files only the first did.
    """
    done: set[str] = set()
    lacking: dict[str, tuple[Path, int]] = {}
    for path in paths:
        for number, row in enumerate(_table_rows(path), 1):
            reason = name_problem(row["item_id"])
            if reason:
                skipped.add(file=path, where=f"row {number}", key="item_id", reason=reason)
                continue
            picture = (row["image"] or {}).get("bytes")
            if picture is not None:
                reason = name_problem(row["image_name"])
                if reason:
                    skipped.add(file=path, where=f"row {number}", key="image_name", reason=reason)
                    continue
                counts.pictures[part] += _write_picture(safe_join(images, row["image_name"]), picture)
            if part == "train" and row["item_id"] in done:
                continue
            if row["row_json"] is None:
                lacking.setdefault(row["item_id"] if part == "train" else row["image_name"], (path, number))
                continue
            raw = _parsed(row["row_json"])
            if raw is None:
                skipped.add(file=path, where=f"row {number}", key="row_json", reason="the text is not a JSON object")
                continue
            counts.entries[part] += 1
            if part == "train":
                done.add(row["item_id"])
            yield row["item_id"], raw
    for key, (path, number) in lacking.items():
        if key not in done:
            skipped.add(file=path, where=f"row {number}", key=key or "", reason=NO_ROW)


def _write_picture(target: Path, picture: bytes) -> bool:
    """Whether it is a new one."""
    new = not target.exists()
    with atomic_path(target) as half:
        half.write_bytes(picture)
    return new


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    with _open(path) as file:
        try:
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(_COLUMNS)):
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
