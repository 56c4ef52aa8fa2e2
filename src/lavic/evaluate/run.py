"""``lavic evaluate``: how often the right product is recommended, beside what it must be compared with."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from functools import cache
from pathlib import Path
from typing import Any

from lavic.config import CONFIG_FILE, VERSIONS_FILE
from lavic.console import Console, Outcome, Progress
from lavic.errors import OutputError
from lavic.evaluate.answers import (
    Answer,
    Answered,
    Journal,
    answer_at_random,
    answer_by_score,
    answer_greedily,
    answer_in_order,
)
from lavic.evaluate.config import EvaluateSettings
from lavic.evaluate.outputs import PAGE_FILE, RESULTS_FILE, SUMMARY_FILE, report
from lavic.evaluate.questions import Questions, stores_of
from lavic.evaluate.systems import IN_ORDER, RANDOM, System, answering, systems_of
from lavic.files import FolderLock, prepare_output, sha256_file
from lavic.folders import contents
from lavic.model.adapters import fingerprint
from lavic.model.load import BaseModel, check_source
from lavic.skipped import SkipLog
from lavic.training.base_model import load_model
from lavic.training.devices import choose_device, choose_precision, make_fabric
from lavic.training.failures import machine_failures
from lavic.training.identity import weights_mark
from lavic.training.run_log import SKIPPED_FILE
from lavic.tune.conversations import category_file
from lavic.tune.samples import AskedRow
from lavic.tune.setup import Choosing, check_conversations, open_store

ANSWERS = "answers"
KNOWN_OUTPUTS = (
    RESULTS_FILE,
    SUMMARY_FILE,
    PAGE_FILE,
    ANSWERS,
    "test_results_*.jsonl",
    SKIPPED_FILE,
    CONFIG_FILE,
    VERSIONS_FILE,
)


def run(settings: EvaluateSettings, console: Console) -> Outcome:
    """Answer, measure, print and write.

    Raises:
        LavicError: see ``lavic.errors``; answers that are there already are kept for the next run.
    """
    choose_precision(settings.precision, choose_device(settings.device))
    check_source(settings.model)
    check_conversations(settings, settings.split)
    systems = systems_of(settings)
    with machine_failures(), FolderLock(settings.output_dir):
        _refuse_other_contents(settings.output_dir)
        prepare_output(
            settings.output_dir, resume=not settings.overwrite, overwrite=settings.overwrite, known=KNOWN_OUTPUTS
        )
        with SkipLog(settings.output_dir / SKIPPED_FILE) as skipped:
            settings.save(settings.output_dir)
            found = _answer_all(settings, systems, skipped, console)
            return report(settings, systems, found, skipped, console)


def _refuse_other_contents(folder: Path) -> None:
    """An evaluation may go on, and be replaced; in a folder of something else it would replace that one's files.

    ``lavic tune`` too writes a ``config.yaml`` and a ``skipped.jsonl``.
    """
    others = [
        path.name
        for path in contents(folder)
        if not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in KNOWN_OUTPUTS)
    ]
    if others and not (folder / ANSWERS).is_dir():
        names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        problem = f"{folder}/ holds something else than an evaluation ({names})"
        raise OutputError(problem, remedy="Choose another --output-dir.")


def _answer_all(
    settings: EvaluateSettings, systems: list[System], skipped: SkipLog, console: Console
) -> dict[str, Answered]:
    """All systems' answers, the judged one first, the baselines without a model last."""
    own = open_store(settings, console, model=settings.model, device=settings.device, precision=settings.precision)
    stores = stores_of(settings, systems, own)
    base = load_model(settings, console)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    questions = Questions(settings, base, stores, skipped)
    # All of them before the first one answers: what is refused is refused at once.
    asked = [(system, *questions.of(system)) for system in systems]
    facts = _common_facts(settings, base, precision)
    fingerprint_of = cache(fingerprint)
    found: dict[str, Answered] = {}
    with make_fabric(device, precision).autocast():
        for system, choosing, rows in asked:
            identity = _identity(settings, system, choosing, facts, fingerprint_of)
            with console.progress(f"Answering: {system.name}", len(rows)) as bar:
                found[system.name] = _answer(settings, system, choosing, rows, identity, bar)
    judged = found[systems[0].name].rows
    for name, answer in _baselines(settings).items():
        found[name] = Answered(judged, answer(judged), 0.0)
    return found


def _baselines(settings: EvaluateSettings) -> dict[str, Callable[[Rows[AskedRow]], list[Answer]]]:
    return {RANDOM: lambda rows: answer_at_random(rows, settings.seed), IN_ORDER: answer_in_order}


def _common_facts(settings: EvaluateSettings, base: BaseModel, precision: str) -> dict[str, Any]:
    """What decides the answers of all systems alike."""
    names = ("candidate_type", "images_per_item", "max_length", "max_rows", "batch_size")
    kept = {name: getattr(settings, name) for name in names}
    files = (category_file(settings, settings.split), settings.item_meta_path, settings.val_data, settings.prompts)
    return {
        **kept,
        "files": [None if path is None else sha256_file(path) for path in files],
        "model": weights_mark(base.model),
        "precision": precision,
    }


def _identity(
    settings: EvaluateSettings,
    system: System,
    choosing: Choosing,
    facts: Mapping[str, Any],
    fingerprint_of: Callable[[Path], str],
) -> str:
    """What decides a system's answers; ``facts`` are all systems'."""
    store = choosing.catalogue.store
    own = {
        "adapter": None if system.adapter is None else fingerprint_of(system.adapter),
        "store": None if store is None else store.mark,
        "max_new_tokens": settings.max_new_tokens if system.greedy else None,
    }
    return hashlib.sha256(json.dumps({**facts, **own}, sort_keys=True).encode()).hexdigest()


def _answer(
    settings: EvaluateSettings,
    system: System,
    choosing: Choosing,
    rows: list[AskedRow],
    identity: str,
    bar: Progress,
) -> Answered:
    journal = Journal(settings.output_dir / ANSWERS / f"{system.name}.jsonl", identity)
    with answering(choosing.base, system) as model:
        if system.greedy:
            answers = answer_greedily(
                model,
                rows,
                choosing.catalogue,
                choosing.prompts,
                journal,
                batch_size=settings.batch_size,
                max_new_tokens=settings.max_new_tokens,
                tokenizer=choosing.base.tokenizer,
                on_rows=bar.advance,
            )
        else:
            answers = answer_by_score(
                model,
                rows,
                choosing.catalogue,
                choosing.prompts,
                journal,
                batch_size=settings.batch_size,
                on_rows=bar.advance,
            )
    return Answered(rows, answers, journal.seconds)
