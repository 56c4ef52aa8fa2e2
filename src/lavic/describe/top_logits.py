"""The teacher's K largest log-probabilities at every description token: raw files, mapped, beside an index.

A folder holds ``store.json`` (what the store is) and shards of some hundred descriptions: ``NNNNN.bin`` with four
arrays behind each other, and ``NNNNN.json`` with their places. The index is written after the numbers, so a shard
with an index is whole. Bytes a token: 4 + 2 K + (1 + K) x (2 up to a vocabulary of 65,536, else 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavic.errors import InputError
from lavic.files import atomic_path, read_json, write_json

STORE_FILE, FORMAT = "store.json", 1
#: Each holds a file open, and a process may hold 1,024 of them.
MOST_OPEN_SHARDS = 256
_ALIGN = 64
_ARRAYS = ("rest", "log_probs", "ids", "targets")


@dataclass(frozen=True)
class TokenLogits:
    """What the teacher thought at the T target tokens of one description, EOS included.

    Attributes:
        targets: [T] the ids that the student is trained on, as its joined sequence has them.
        ids: [T, K] the likeliest tokens, likeliest first.
        log_probs: [T, K] float16, nats.
        rest: [T] float32, log of the probability of all other tokens together.
    """

    targets: NDArray[Any]
    ids: NDArray[Any]
    log_probs: NDArray[np.float16]
    rest: NDArray[np.float32]


def default_folder(metadata: Path) -> Path:
    """Where the store of a training file, packed or not, lies unless told otherwise."""
    name = metadata.name.removesuffix(".zip").removesuffix(".gz")
    return metadata.with_name(Path(name).stem + ".top_logits")


def id_type(vocabulary: int) -> str:
    """The narrowest type that holds every id."""
    return "uint16" if vocabulary <= 2**16 else "uint32"


def bytes_per_token(k: int, vocabulary: int) -> int:
    """What one token takes."""
    return 4 + 2 * k + (1 + k) * np.dtype(id_type(vocabulary)).itemsize


def text_mark(title: str, description: str) -> str:
    """What tells a description, and the title it is asked for with, from others."""
    return hashlib.sha256(f"{title}\0{description}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def shard_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """Index and numbers of a shard."""
    return folder / f"{number:05d}.json", folder / f"{number:05d}.bin"


def shard_files(folder: Path) -> list[Path]:
    """Indices and numbers of all shards in a folder, whole or not."""
    return sorted(path for path in folder.glob("[0-9]" * 5 + ".*") if path.suffix in (".json", ".bin"))


def no_tokens(k: int, vocabulary: int) -> TokenLogits:
    """The numbers of no token at all, in the store's types."""
    ids = id_type(vocabulary)
    return TokenLogits(np.zeros(0, ids), np.zeros((0, k), ids), np.zeros((0, k), np.float16), np.zeros(0, np.float32))


def write_shard(
    folder: Path,
    number: int,
    rows: Rows[tuple[str, str, TokenLogits]],
    empty: TokenLogits,
    left_out: Rows[str] = (),
) -> int:
    """Write a shard, whole or not at all; returns its bytes.

    Args:
        rows: image_name, mark of the text, numbers.
        empty: ``no_tokens``, which decides the types.
        left_out: pictures of the shard that could not be read.

    Raises:
        OutputError: it cannot be written.
    """
    index, numbers = shard_paths(folder, number)
    index.unlink(missing_ok=True)  # from here to its return the shard does not exist
    every = [empty, *(row for _, _, row in rows)]
    arrays = {name: np.concatenate([getattr(row, name) for row in every]) for name in _ARRAYS}
    places: dict[str, Any] = {}
    with atomic_path(numbers) as part, part.open("wb") as stream:
        for name, array in arrays.items():
            stream.write(bytes(-stream.tell() % _ALIGN))
            places[name] = {"offset": stream.tell(), "shape": list(array.shape), "dtype": str(array.dtype)}
            stream.write(np.ascontiguousarray(array).tobytes())
        size = stream.tell()
    images, start = [], 0
    for image_name, mark, row in rows:
        images.append({"image_name": image_name, "text": mark, "start": start, "tokens": len(row.targets)})
        start += len(row.targets)
    write_json(index, {"bytes": size, "arrays": places, "images": images, "left_out": sorted(left_out)})
    return size


def shard_index(folder: Path, number: int) -> dict[str, Any] | None:
    """The index of a shard that is whole; else None."""
    index, numbers = shard_paths(folder, number)
    try:
        found = read_json(index)
        whole = isinstance(found, dict) and numbers.stat().st_size == found.get("bytes")
    except (InputError, OSError):
        return None
    return found if whole else None


class TopLogits:
    """Reads a store; the numbers stay on the disk until they are asked for.

    Attributes:
        about: what ``store.json`` says: ``k``, ``vocabulary``, ``identity``.

    Raises:
        InputError: the folder holds no store, or a shard of it is not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: Mapping[str, Any] = read_store(folder)
        self._places: dict[str, tuple[int, int, int, str]] = {}
        self._shards: dict[int, TokenLogits] = {}
        for number in range(int(self.about["shards"])):
            index = shard_index(folder, number)
            if index is None:
                remedy = "Run lavic describe with --top_logits again; it makes what is missing."
                raise InputError(f"shard {number:05d} is not whole", where=str(folder), remedy=remedy)
            for image in index["images"]:
                place = (number, int(image["start"]), int(image["tokens"]), str(image["text"]))
                self._places[str(image["image_name"])] = place

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, image_name: object) -> bool:
        return image_name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def get(self, image_name: str, targets: Rows[int] | None = None) -> TokenLogits:
        """The numbers of one picture's description.

        Args:
            targets: ids that the student is to be trained on; numbers for others are refused.

        Raises:
            InputError: the picture is not in the store, or was stored with other target tokens.
        """
        if image_name not in self._places:
            raise InputError(f"there are no probabilities for {image_name}", where=str(self.folder))
        number, start, count, _ = self._places[image_name]
        if number not in self._shards:
            if len(self._shards) >= MOST_OPEN_SHARDS:
                del self._shards[next(iter(self._shards))]
            self._shards[number] = self._mapped(number)
        shard = self._shards[number]
        arrays = {field.name: getattr(shard, field.name)[start : start + count] for field in fields(TokenLogits)}
        found = TokenLogits(**arrays)
        if targets is not None and found.targets.tolist() != list(targets):
            raise InputError(
                f"the probabilities of {image_name} belong to other target tokens",
                where=str(self.folder),
                remedy="Description, prompt or tokenizer changed: run lavic describe with --top_logits again.",
            )
        return found

    def text_of(self, image_name: str) -> str:
        """The ``text_mark`` of the title and description that a picture's numbers were made with."""
        return self._places[image_name][3]

    def _mapped(self, number: int) -> TokenLogits:
        index = shard_index(self.folder, number)
        if index is None:
            raise InputError(f"shard {number:05d} was whole and is no longer", where=str(self.folder))
        _, numbers = shard_paths(self.folder, number)
        whole = np.memmap(numbers, np.uint8, "r")
        arrays: dict[str, Any] = {}
        for name, place in index["arrays"].items():
            size = int(np.prod(place["shape"])) * np.dtype(place["dtype"]).itemsize
            part = whole[place["offset"] : place["offset"] + size]
            arrays[name] = part.view(place["dtype"]).reshape(place["shape"])
        return TokenLogits(**arrays)


def read_store(folder: Path) -> dict[str, Any]:
    """``store.json``.

    Raises:
        InputError: it is not there, or of another kind.
    """
    about = read_json(folder / STORE_FILE)
    if not isinstance(about, dict) or about.get("format") != FORMAT or "shards" not in about:
        raise InputError("this is no store of the teacher's probabilities", where=str(folder))
    return about
