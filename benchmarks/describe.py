"""How many descriptions a second does batched, grouped generation make, against one picture at a time?

    python benchmarks/describe.py [--pictures N] [--batch_size N] [--repeats N] [--json FILE]

The tiny model describes drawn products of ten shapes, from the same files with the same reading threads: one at a time,
in batches as the pictures come, and in batches of alike length. All sides must write the same texts. Sides take turns,
and the median of the repeats counts. Loading the model is nobody's time.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lavic.console import Console
from lavic.describe.batches import plan_batches, read_ahead
from lavic.describe.engines import Request, Speech, picture_seed
from lavic.describe.sides import Picture
from lavic.describe.teacher_prompt import teacher_prompt
from lavic.describe.transformers_engine import TransformersEngine
from lavic.errors import ImageError
from lavic.images import picture_size
from lavic.model.load import load_base
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop.catalogue import plan_catalogue
from lavic.toyshop.drawing import draw

SIDES = {"one": "one at a time", "batched": "batches in file order", "grouped": "batches of alike length"}
SHAPES = [(80, 80), (120, 60), (60, 120), (40, 130), (130, 40), (100, 90), (240, 80), (77, 41), (64, 64), (90, 200)]


def draw_pictures(folder: Path, count: int) -> list[Picture]:
    """JPEGs of products in ten shapes, one after another."""
    train, valid = plan_catalogue(max(count, 12) * 2, 0)
    pictures = []
    for number, item in enumerate([*train, *valid][:count]):
        path = folder / item.image_name
        image = draw(item.look, random.Random(item.picture_seed)).resize(SHAPES[number % len(SHAPES)])
        image.save(path, quality=92)
        pictures.append(Picture("train", item.item_id, item.image_name, item.title, path, "drawn"))
    return pictures


def describe(engine: TransformersEngine, pictures: list[Picture], batch_size: int, grouped: bool) -> dict[str, str]:
    """image_name -> text, as ``lavic describe`` makes them."""
    texts: dict[str, str] = {}
    length = engine.image_tokens if grouped else None
    for batch in read_ahead(plan_batches(pictures, batch_size, length), 2):
        requests = []
        for picture, image in batch:
            assert not isinstance(image, ImageError), "the drawn pictures can be read"
            requests.append(Request(image, picture_seed(0, picture.image_name)))
        for (picture, _), answer in zip(batch, engine.describe(requests), strict=True):
            texts[picture.image_name] = answer.text
    return texts


def padding(engine: TransformersEngine, pictures: list[Picture], batch_size: int, grouped: bool) -> float:
    """Share of the image positions that are padding."""
    used = all_places = 0
    for batch in plan_batches(pictures, batch_size, engine.image_tokens if grouped else None):
        counts = [engine.image_tokens(picture_size(picture.path) or (1, 1)) for picture in batch]
        used, all_places = used + sum(counts), all_places + max(counts) * len(counts)
    return 1 - used / all_places


def measure(count: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Seconds of each side, medians and shares.

    Raises:
        SystemExit: two sides wrote different texts.
    """
    base = load_base("tiny")
    engine = TransformersEngine(base, teacher_prompt(base, DEFAULT_PROMPTS.describe), Speech(48))
    plans = {"one": (1, False), "batched": (batch_size, False), "grouped": (batch_size, True)}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    with tempfile.TemporaryDirectory() as folder:
        pictures = draw_pictures(Path(folder), count)
        wanted = describe(engine, pictures, 1, False)  # also warms up
        for _ in range(repeats):
            for name, plan in plans.items():
                begun = time.perf_counter()
                texts = describe(engine, pictures, *plan)
                seconds[name].append(time.perf_counter() - begun)
                if texts != wanted:
                    sys.exit(f"{SIDES[name]}: other texts than one at a time")
        shares = {name: padding(engine, pictures, *plan) for name, plan in plans.items()}
    rates = {name: count / statistics.median(times) for name, times in seconds.items()}
    return {
        "pictures": count,
        "batch_size": batch_size,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "same_texts": True,
        "sides": {
            name: {
                "descriptions_per_s": round(rates[name], 2),
                "times_one_at_a_time": round(rates[name] / rates["one"], 2),
                "padding": round(shares[name], 3),
                "seconds": [round(one, 3) for one in seconds[name]],
            }
            for name in plans
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.pictures, given.batch_size, given.repeats)
    rows = [
        [SIDES[name], side["descriptions_per_s"], f"{side['times_one_at_a_time']:.2f}x", f"{side['padding']:.1%}"]
        for name, side in found["sides"].items()
    ]
    Console().table(
        rows, header=("way", "descriptions/s", "against one", "padding"), title="All sides: the same texts."
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
