"""Pictures for the teacher's schooling: drawn once by worker processes, kept as views on disk."""

from __future__ import annotations

import io
import json
import multiprocessing
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lavic.model.views import cut_views
from lavic.toyshop.drawing import draw
from lavic.toyshop.kinds import Look, looks
from lavic.toyshop.tiny_model import VIEW_SIZE


class PicturePool:
    """Views and looks of many pictures.

    Attributes:
        views: [N, 5, 3, 40, 40] uint8, memory-mapped.
        looks: what each shows.
    """

    def __init__(self, folder: Path) -> None:
        self.views: NDArray[np.uint8] = np.load(folder / "views.npy", mmap_mode="r")
        self.looks = [Look(**row) for row in json.loads((folder / "looks.json").read_text())]

    def __len__(self) -> int:
        return len(self.looks)


def _views_of(job: tuple[Look, int]) -> NDArray[np.uint8]:
    """One picture, through JPEG as every real one, cut into views."""
    look, seed = job
    buffer = io.BytesIO()
    draw(look, random.Random(seed)).save(buffer, "JPEG", quality=92)
    return cut_views(Image.open(buffer).convert("RGB"), VIEW_SIZE)


def make_pool(folder: Path, count: int, seed: int, *, held_out: bool, workers: int) -> PicturePool:
    """Draw ``count`` pictures, or reuse those that the folder holds."""
    if (folder / "looks.json").exists():
        return PicturePool(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    jobs = [(look, rng.getrandbits(63)) for look in looks(rng, count, held_out=held_out)]
    views = np.lib.format.open_memmap(
        folder / "views.npy", mode="w+", dtype=np.uint8, shape=(count, 5, 3, VIEW_SIZE, VIEW_SIZE)
    )
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        for index, picture in enumerate(processes.imap(_views_of, jobs, chunksize=32)):
            views[index] = picture
    views.flush()
    (folder / "looks.json").write_text(json.dumps([asdict(look) for look, _ in jobs]))
    return PicturePool(folder)
