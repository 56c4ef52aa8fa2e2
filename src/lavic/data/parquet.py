"""The public format as Parquet files with the pictures in them, as Hugging Face ``datasets`` reads them; and back.

A row is a picture. The row of the metadata that it comes from is kept as JSON text beside it, so that the way back
gives the same bytes, and no item is lost where rows were filtered; an item without pictures is a row without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.archives import open_text_maybe_zipped
from lavic.data.listing import Entry, is_ascii, picture_path, read_entries, rewritten
from lavic.data.outputs import EARLIER_CONVERSION, output_of, refuse_sources_inside
from lavic.errors import ConfigError, InputError, NothingLeftError
from lavic.files import atomic_path, open_regular, write_atomic
from lavic.images import IMAGE_LIMITS
from lavic.layout import TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA
from lavic.skipped import SkipLog

MARKER = "parquet.json"
OUTPUTS = (MARKER, "README.md", "data", "skipped.jsonl")
#: Names of the parts there and here.
SPLITS = {"train": "train", "valid": "validation"}
METADATA = {"train": TRAIN_METADATA, "valid": VALID_METADATA}
IMAGES = {"train": TRAIN_IMAGES, "valid": VALID_IMAGES}
#: A row group is held in memory; a file of 500 MB is what ``datasets`` itself writes.
GROUP_BYTES, GROUP_ROWS, FILE_BYTES = 32 * 2**20, 500, 500 * 10**6
#: The file's own note, beside that of ``datasets``, in the Parquet schema.
NOTE = b"lavic"

_CARD = """---
configs:
- config_name: default
  data_files:
{files}---

# Product pictures with descriptions

Written by `lavic data convert --to parquet`; `lavic data convert --from parquet` makes the files that lavic reads.

```python
from datasets import load_dataset

data = load_dataset("parquet", data_files={{{example}}})
```

A row is a picture: `item_id`, `title`, `image_name`, `image`, `description` (empty where there is none). `row_json` is
the item's (training) or picture's (validation) row of the metadata, on each of its rows.
"""


@dataclass
class ParquetCounts:
    """What was written.

    Attributes:
        rows, pictures: by part.
        pictures_missing: described pictures that are not in the folder; their row has no picture.
        same_bytes_back: whether the way back gives the metadata files byte for byte.
    """

    output_dir: Path
    rows: dict[str, int] = field(default_factory=lambda: {"train": 0, "valid": 0})
    pictures: dict[str, int] = field(default_factory=lambda: {"train": 0, "valid": 0})
    pictures_missing: int = 0
    files: list[str] = field(default_factory=list)
    same_bytes_back: bool = True
    skipped: int = 0


def require_pyarrow() -> None:
    """See that Parquet can be read and written.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed", remedy='Install it: pip install "lavic[parquet]".'
        ) from error


def source_files(source_dir: Path) -> dict[str, Path]:
    """Part -> metadata file of a data set in the public format, plain or packed.

    Raises:
        InputError: there is none.
    """
    if not source_dir.is_dir():
        raise InputError("there is no such folder", where=str(source_dir), remedy="Give --source_dir.")
    found: dict[str, Path] = {}
    for part, name in METADATA.items():
        for path in (source_dir / f"{name}{ending}" for ending in ("", ".zip", ".gz")):
            if path.is_file():
                found.setdefault(part, path)
    if not found:
        problem = f"the folder holds neither {TRAIN_METADATA} nor {VALID_METADATA}"
        raise InputError(problem, where=str(source_dir), remedy="Give --source_dir a data set in the public format.")
    return found


def write_parquet(source_dir: Path, output_dir: Path, *, overwrite: bool = False) -> ParquetCounts:
    """From the public format to Parquet.

    Raises:
        InputError: a source file cannot be used.
        NothingLeftError: the metadata name nothing.
        OutputError: the output folder holds something else, or cannot be written.
        ConfigError: pyarrow is not installed.
    """
    require_pyarrow()
    sources = source_files(source_dir)
    refuse_sources_inside(output_dir, [source_dir, *sources.values()])
    with output_of(output_dir, OUTPUTS, EARLIER_CONVERSION, overwrite=overwrite) as output:
        # Read once before anything is deleted.
        if not sum(1 for part, path in sources.items() for _ in read_entries(part, path, SkipLog())):
            raise NothingLeftError("no row is left", where=str(source_dir))
        output.begin({})
        (output_dir / "data").mkdir(exist_ok=True)
        counts = ParquetCounts(output_dir)
        for part, path in sources.items():
            _write_part(part, path, source_dir / IMAGES[part], counts, output.skipped)
        counts.skipped = output.skipped.count
        counts.same_bytes_back = all(_same_back(part, path) for part, path in sources.items())
        write_atomic(output_dir / "README.md", _card(list(sources)))
        output.finish({"files": counts.files})
    return counts


def _card(parts: list[str]) -> str:
    patterns = {SPLITS[part]: f"data/{SPLITS[part]}-*.parquet" for part in parts}
    files = "".join(f"  - split: {split}\n    path: {pattern}\n" for split, pattern in patterns.items())
    return _CARD.format(files=files, example=", ".join(f'"{name}": "{path}"' for name, path in patterns.items()))


def _schema(ascii_only: bool) -> Any:
    """Columns, with the note by which ``datasets`` shows the pictures as such."""
    import pyarrow as pa

    texts = ("item_id", "title", "image_name", "description", "row_json")
    columns = {name: pa.string() for name in texts}
    columns["image"] = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features: dict[str, dict[str, str]] = {name: {"dtype": "string", "_type": "Value"} for name in texts}
    features["image"] = {"_type": "Image"}
    notes = {
        b"huggingface": json.dumps({"info": {"features": features}}).encode(),
        NOTE: json.dumps({"version": 1, "ascii_only": ascii_only}).encode(),
    }
    return pa.schema(list(columns.items()), metadata=notes)


def _write_part(part: str, path: Path, images_dir: Path, counts: ParquetCounts, skipped: SkipLog) -> None:
    """One part's files, one after another, each whole or absent."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The published validation file is UTF-8 whatever it holds.
    schema = _schema(part == "train" and is_ascii(path))
    groups = _groups(_rows(part, path, images_dir, counts, skipped))
    group, number = next(groups, None), 0
    while group is not None:
        name = f"{SPLITS[part]}-{number:05d}.parquet"
        target = counts.output_dir / "data" / name
        with atomic_path(target) as half, pq.ParquetWriter(half, schema) as writer:
            written = 0
            while group is not None and written < FILE_BYTES:
                rows, size = group
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                written += size
                group = next(groups, None)
        counts.files.append(f"data/{name}")
        number += 1


def _groups(rows: Iterator[tuple[dict[str, Any], int]]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Rows in groups that fit into memory, with their bytes."""
    group: list[dict[str, Any]] = []
    total = 0
    for row, size in rows:
        group.append(row)
        total += size
        if total >= GROUP_BYTES or len(group) >= GROUP_ROWS:
            yield group, total
            group, total = [], 0
    if group:
        yield group, total


def _rows(
    part: str, path: Path, images_dir: Path, counts: ParquetCounts, skipped: SkipLog
) -> Iterator[tuple[dict[str, Any], int]]:
    for entry in read_entries(part, path, skipped):
        raw = json.dumps(entry.raw)  # escaped: half a surrogate pair has no UTF-8 form
        for name, picture in _pictures(entry, path, images_dir, counts, skipped):
            row = {
                "item_id": entry.item_id,
                "title": entry.title,
                "image_name": name,
                "description": entry.images.get(name, ""),
                "row_json": raw,
                "image": None if picture is None else {"bytes": picture, "path": name},
            }
            yield row, len(picture or b"") + len(raw)
            counts.rows[part] += 1
            counts.pictures[part] += picture is not None


def _pictures(
    entry: Entry, path: Path, images_dir: Path, counts: ParquetCounts, skipped: SkipLog
) -> Iterator[tuple[str, bytes | None]]:
    """The entry's pictures by name; a described one that is missing is None, as is one that stands for none at all."""
    some = False
    for name, description in entry.images.items():
        picture = _read_picture(images_dir, name, path, entry, skipped)
        if picture is None and not description:
            continue
        counts.pictures_missing += picture is None
        some = True
        yield name, picture
    if not some:
        yield next(iter(entry.images), ""), None


def _read_picture(images_dir: Path, name: str, path: Path, entry: Entry, skipped: SkipLog) -> bytes | None:
    found = picture_path(images_dir, name)
    if found is None:
        return None
    if found.stat().st_size > IMAGE_LIMITS.max_bytes:
        reason = f"the file is larger than {IMAGE_LIMITS.max_bytes:,} bytes"
        skipped.add(file=path, where=entry.where, key=name, reason=reason)
        return None
    try:
        with open_regular(found) as stream:
            return stream.read()
    except InputError as error:
        skipped.add(file=path, where=entry.where, key=name, reason=error.problem)
        return None


def _same_back(part: str, path: Path) -> bool:
    """Whether the metadata, written again from what was read, would have the same bytes."""
    ascii_only = part == "train" and is_ascii(path)
    entries = ((entry.item_id, entry.raw) for entry in read_entries(part, path, SkipLog()))
    with open_text_maybe_zipped(path) as stream:
        for piece in rewritten(part, entries, ascii_only):
            if stream.read(len(piece)) != piece:
                return False
        return not stream.read(1)
