"""A data set in the public format, small enough to count by hand: three splits of conversations, nine items."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

#: Items of the training file and how many pictures each has; T4's second picture is missing, T5 has none there.
TRAIN = {"T0": 3, "T1": 2, "T2": 1, "T3": 1, "T4": 2, "T5": 1}
VALID = ("V0", "V1")
KEY, LINE_KEY = "image_descriptions_llava_cleaned", "image_description_llava_cleaned"


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (16, 12)) -> bytes:
    """A picture of one colour."""
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).save(encoded, "JPEG")
    return encoded.getvalue()


def item(item_id: str, pictures: int) -> dict[str, Any]:
    """A row of the training file."""
    return {
        "title": f"Thing {item_id} é",
        "categories": ["Toys", "Small"],
        "unknown": {"kept": [1, None]},
        "images": [{"large": f"https://shop.invalid/{item_id}/{index}.jpg"} for index in range(pictures)],
        KEY: {f"{item_id}_{index}.jpg": f"It shows {item_id} from side {index}." for index in range(pictures)},
    }


def conversation(post: str, gt_items: list[str], st: list[str], **more: Any) -> dict[str, Any]:
    """A row of a conversation file."""
    context = f"<submission>{post}</submission>\n<comment>Try Thé</comment>\n"
    return {"context": context, "context_items": [], "gt": "This.", "gt_items": gt_items, "candidates_st": st, **more}


CONVERSATIONS = {
    "train": [
        conversation("one", ["T0"], ["T1", "T2"]),
        conversation("two", ["T1", "T1"], ["T0", "T1"]),
        conversation("three", ["T3"], ["T4", "T9"]),  # T9 has no metadata
    ],
    "valid": [conversation("four, B like T2", ["T2", "T3"], ["T2", "T3"])],
    "test": [
        conversation("five", ["V0"], ["T0", "T5"]),  # T5 has no picture
        conversation("six", ["V1"], ["T0", "T2"], context_items=["V1"]),
    ],
}


def lines(path: Path, rows: list[Any], *, ascii_only: bool = True) -> None:
    """A JSONL file; a row of bytes is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join(
            (row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=ascii_only).encode()) + b"\n"
            for row in rows
        )
    )


def make_public(folder: Path) -> Path:
    """Write it all; every picture has bytes of its own."""
    for side in ("train_images", "valid_images"):
        (folder / side).mkdir(parents=True)
    rows = {item_id: item(item_id, pictures) for item_id, pictures in TRAIN.items()}
    (folder / "item2meta_train.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    shade = 0
    for item_id, pictures in TRAIN.items():
        for index in range(pictures):
            shade += 11
            if (item_id, index) not in (("T4", 1), ("T5", 0)):
                (folder / "train_images" / f"{item_id}_{index}.jpg").write_bytes(jpeg((shade, 90, 200)))
    valid = []
    for place, item_id in enumerate(VALID):
        name = f"{item_id}_0.jpg"
        (folder / "valid_images" / name).write_bytes(jpeg((40 + 90 * place, 255, 3), (20, 30)))
        text = f"A picture of {item_id} — green."
        valid.append({"title": f"Thing {item_id}", "image_name": name, "image": "", LINE_KEY: text})
    lines(folder / "item2meta_valid.jsonl", valid, ascii_only=False)
    for split, conversations in CONVERSATIONS.items():
        lines(folder / "toys" / f"{split}.jsonl", list(conversations))
    return folder


def flags(world: Path, *more: object) -> list[str]:
    """The four parts of a world, and more words."""
    words = ["--train_data", world / "item2meta_train.json", "--val_data", world / "item2meta_valid.jsonl"]
    words += ["--train_images_dir", world / "train_images", "--val_images_dir", world / "valid_images"]
    return [str(word) for word in (*words, *more)]
