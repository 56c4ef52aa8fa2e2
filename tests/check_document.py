"""What ``lavic check`` says, as a document, and what it leaves behind: nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lavic.cli.main import run_command_line


def checked(capsys: pytest.CaptureFixture[str], words: list[str], *, code: int) -> dict[str, Any]:
    """The document of a check that ends with ``code``; ``words`` are its flags, behind ``check``."""
    capsys.readouterr()
    assert run_command_line(["check", *words, "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["go"] is (code == 0)
    return document


def rows(document: dict[str, Any], status: str) -> dict[str, dict[str, str]]:
    """The rows of a status, by name."""
    return {row["name"]: row for row in document["checks"] if row["status"] == status}


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in a folder, with size and time of the last change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}
