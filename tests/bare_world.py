"""A toy shop whose descriptions were taken out, and the flags to describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from small_world import make_world

from lavic.formats import DESCRIPTION_KEY, DESCRIPTIONS_KEY
from lavic.layout import data_paths


def bare_world(folder: Path, items: int = 12) -> Path:
    """A catalogue of ``items``, a fifth for validation, none described."""
    make_world(folder, items)
    rows = json.loads((folder / "item2meta_train.json").read_text())
    for row in rows.values():
        del row[DESCRIPTIONS_KEY]
    (folder / "item2meta_train.json").write_text(json.dumps(rows))
    lines = [json.loads(line) for line in (folder / "item2meta_valid.jsonl").read_text().splitlines()]
    for line in lines:
        del line[DESCRIPTION_KEY]
    (folder / "item2meta_valid.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def flags(world: Path, **more: Any) -> list[str]:
    """Command line of ``lavic describe`` on a world."""
    values: dict[str, Any] = {"model": "tiny", **data_paths(world), "max_new_tokens": 48, "batch_size": 4, **more}
    words = ["describe"]
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def texts(world: Path) -> dict[str, str]:
    """image_name -> description, of both files."""
    found: dict[str, str] = {}
    for row in json.loads((world / "item2meta_train.json").read_text()).values():
        found |= row.get(DESCRIPTIONS_KEY) or {}
    for line in (world / "item2meta_valid.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get(DESCRIPTION_KEY):
            found[row["image_name"]] = row[DESCRIPTION_KEY]
    return found
