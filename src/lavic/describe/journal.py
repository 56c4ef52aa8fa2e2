"""Descriptions beside the metadata until they are merged: a JSONL file that survives a kill.

Its first row says which model and settings speak; every other row is a picture with its text. After the merge
it stays: it says who described what, and another model may not go on where this one left off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lavic.errors import InputError, OutputError
from lavic.files import append_jsonl, read_jsonl
from lavic.training.identity import differences

KIND, FORMAT = "lavic describe", 1
_START_AGAIN = "Move it away, or start again with --overwrite."
_TYPES = {"image_name": str, "text": str, "tokens": int, "cut_off": bool, "problem": str}


@dataclass(frozen=True)
class Described:
    """What the teacher said about a picture.

    Attributes:
        text: cleaned; "" if nothing usable came out, which ``problem`` then explains.
        tokens: how many were generated, EOS not counted.
        cut_off: whether the token limit ended the text.
    """

    image_name: str
    text: str
    tokens: int
    cut_off: bool
    problem: str = ""


class Journal:
    """The journal of one metadata file.

    Attributes:
        described: image_name -> what was said, of all rows.
        identity: of the run that began it, by the names of flags; empty where there is none yet.

    Raises:
        OutputError: there is a file of this name that is no journal, or a row in it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.described: dict[str, Described] = {}
        self.identity: dict[str, str] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        rows = read_jsonl(self.path)
        try:
            head = next(rows, None)
            if head is None:
                return  # killed while its first row was written
            identity = head.get("identity")
            if head.get("kind") != KIND or head.get("format") != FORMAT or not isinstance(identity, dict):
                raise OutputError("this is no journal of lavic describe", where=str(self.path), remedy=_START_AGAIN)
            self.identity = {str(name): str(value) for name, value in identity.items()}
            for row in rows:
                if {name: type(value) for name, value in row.items()} != _TYPES:
                    raise OutputError("a row of the journal is damaged", where=str(self.path), remedy=_START_AGAIN)
                self.described.setdefault(row["image_name"], Described(**row))
        except InputError as error:
            raise OutputError(error.problem, where=error.where, remedy=_START_AGAIN) from error

    def check(self, identity: Mapping[str, str]) -> None:
        """Refuse another model or other settings; compares what ``identity`` holds so far.

        Raises:
            OutputError: names all that differs.
        """
        different = differences(self.identity, identity, identity) if self.identity else ""
        if different:
            raise OutputError(
                f"the journal holds {len(self.described):,} descriptions of another model or other settings: "
                f"{different}",
                where=str(self.path),
                remedy="Go on with the same ones, or throw them away with --overwrite (what the metadata hold stays).",
            )

    def begin(self, identity: Mapping[str, str]) -> None:
        """Write the first row, unless there is one.

        Raises:
            OutputError: it is of another run, or cannot be written.
        """
        self.check(identity)
        if not self.identity:
            self.identity = dict(identity)
            append_jsonl(self.path, {"kind": KIND, "format": FORMAT, "identity": self.identity})

    def add(self, described: Described) -> None:
        """Keep a text, at once."""
        append_jsonl(self.path, asdict(described))
        self.described[described.image_name] = described
