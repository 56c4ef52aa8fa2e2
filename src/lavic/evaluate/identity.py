"""What decides an evaluation's answers: its folder is gone on with only while that is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lavic.errors import OutputError
from lavic.evaluate.answers import holds_other_answers
from lavic.evaluate.config import EvaluateSettings
from lavic.files import read_json, write_json
from lavic.training.devices import choose_device, choose_precision
from lavic.training.identity import differences, identity_of
from lavic.tune.conversations import category_file

ANSWERS = "answers"
#: In ``ANSWERS``: what all of them have in common, by the names that a user knows.
FACTS_FILE = "evaluation.json"
_SETTINGS = ("split", "images_per_item", "max_length", "max_rows", "batch_size", "quantize")


def known_facts(settings: EvaluateSettings) -> dict[str, str]:
    """What all systems' answers depend on, as far as it is known before the model is loaded.

    The list of candidates is not among it: one folder holds the answers to several.

    Raises:
        InputError: a file cannot be read.
    """
    conversations = category_file(settings, settings.split)
    named = {
        "category": conversations.parent.resolve().name,
        **{name: getattr(settings, name) for name in _SETTINGS},
        "precision": choose_precision(settings.precision, choose_device(settings.device)),
    }
    files = {
        "the conversations": conversations,
        "--item_meta_path": settings.item_meta_path,
        "--val_data": settings.val_data,
        "--prompts": settings.prompts,
    }
    return identity_of(named, free=(), files=files)


def check_same_evaluation(folder: Path, facts: Mapping[str, str], *, whole: bool = True) -> None:
    """Refuse to go on with another evaluation.

    Args:
        whole: False compares only what ``facts`` hold so far.

    Raises:
        OutputError: names everything that differs from what the folder holds.
    """
    path = folder / ANSWERS / FACTS_FILE
    if not path.exists() or not _has_answers(folder):
        return
    found = read_json(path)
    known = found if isinstance(found, dict) else {}
    different = differences(known, facts, sorted(facts.keys() | known.keys() if whole else facts.keys()))
    if different:
        raise OutputError(
            f"{folder}/ holds an evaluation with other settings or data: {different}",
            remedy="Give the same ones, replace it with --overwrite, or choose another --output-dir.",
        )


def check_same_systems(folder: Path, journals: Iterable[tuple[str, Path, str]]) -> None:
    """Refuse to throw away a system's answers; those of a further system are welcome beside them.

    Args:
        journals: of each system: its name, its journal, and the identity of the answers that are to be given.

    Raises:
        OutputError: names the systems whose journals hold answers of another identity.
        InputError: a journal is damaged.
    """
    other = [name for name, path, identity in journals if holds_other_answers(path, identity)]
    if other:
        raise OutputError(
            f"{folder}/ holds answers of {', '.join(other)} with another adapter, item store or --max_new_tokens",
            remedy="Give the same ones, replace the evaluation with --overwrite, or choose another --output-dir.",
        )


def _has_answers(folder: Path) -> bool:
    """Whether there is anything to lose: after a first batch that was too large for the memory there is not."""
    return any(path.read_bytes().count(b"\n") > 1 for path in (folder / ANSWERS).glob("*.jsonl"))


def save_facts(folder: Path, facts: Mapping[str, str]) -> None:
    """Keep what ``check_same_evaluation`` compares."""
    (folder / ANSWERS).mkdir(exist_ok=True)
    write_json(folder / ANSWERS / FACTS_FILE, dict(facts))


def identity_mark(facts: Mapping[str, object]) -> str:
    """One value for all that decides a system's answers."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
