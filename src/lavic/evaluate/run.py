"""``lavic evaluate``: how often the right product is recommended, beside what it must be compared with."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lavic.config import CONFIG_FILE, VERSIONS_FILE
from lavic.console import Console, Outcome, Progress
from lavic.embed.identity import base_marks
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
from lavic.evaluate.identity import (
    ANSWERS,
    check_same_evaluation,
    check_same_systems,
    identity_mark,
    known_facts,
    save_facts,
)
from lavic.evaluate.outputs import LIST_RESULTS, PAGE_FILE, RESULTS_FILE, SUMMARY_FILE, report
from lavic.evaluate.questions import Questions, stores_of
from lavic.evaluate.systems import (
    IN_ORDER,
    RANDOM,
    System,
    answering,
    check_adapters,
    systems_of,
    tuned_otherwise,
)
from lavic.files import FolderLock, prepare_output, remove_file
from lavic.folders import contents
from lavic.model.adapters import fingerprint
from lavic.model.load import BaseModel
from lavic.skipped import SkipLog
from lavic.training.base_model import check_model, load_model
from lavic.training.devices import choose_device, choose_precision, make_fabric
from lavic.training.failures import machine_failures
from lavic.training.identity import weights_mark
from lavic.training.run_log import SKIPPED_FILE
from lavic.tune.samples import AskedRow
from lavic.tune.setup import Choosing, check_conversations, open_store

KNOWN_OUTPUTS = (
    RESULTS_FILE,
    LIST_RESULTS.format("*"),
    SUMMARY_FILE,
    PAGE_FILE,
    ANSWERS,
    "test_results_*.jsonl",
    SKIPPED_FILE,
    CONFIG_FILE,
    VERSIONS_FILE,
)


@dataclass(frozen=True)
class Asked:
    """A system with what it is asked, and where its answers are kept.

    Attributes:
        journal: of this system and one list of candidates: the answers to another list stay.
        identity: of all that decides the answers.
    """

    system: System
    choosing: Choosing
    rows: list[AskedRow]
    journal: Path
    identity: str


def run(settings: EvaluateSettings, console: Console) -> Outcome:
    """Answer, measure, print and write.

    Raises:
        LavicError: see ``lavic.errors``; what an evaluation has left before stays until this one begins to answer, and
            answers that are there already are kept for the next run.
    """
    check_model(settings)
    check_conversations(settings, settings.split)
    systems = systems_of(settings)
    folder = settings.output_dir
    with machine_failures(), FolderLock(folder):
        _refuse_other_contents(folder)
        facts = known_facts(settings)
        if not settings.overwrite:
            check_same_evaluation(folder, facts, whole=False)
        prepare_output(folder, resume=True, overwrite=False, known=KNOWN_OUTPUTS)
        with _skip_log(settings) as skipped:
            base, asked = _questions(settings, systems, facts, skipped, console)
            _begin(settings, facts, asked, skipped)
            _warn_of_strange_stores(asked, console)
            found = _answer_all(settings, base, asked, console)
            return report(settings, systems, found, skipped, console)


def _skip_log(settings: EvaluateSettings) -> SkipLog:
    """The list of rows left out; an evaluation that is there keeps its own until nothing can be refused."""
    aside = settings.overwrite or (settings.output_dir / ANSWERS).is_dir()
    return SkipLog(None if aside else settings.output_dir / SKIPPED_FILE, aside=aside)


def _begin(settings: EvaluateSettings, facts: Mapping[str, str], asked: list[Asked], skipped: SkipLog) -> None:
    """All is checked: only now an evaluation is deleted that is to be replaced.

    Raises:
        OutputError: the folder holds another evaluation, or another adapter's answers, that are not to be replaced; or
            it cannot be written.
        InputError: answers that are there are damaged.
    """
    folder = settings.output_dir
    if settings.overwrite:
        prepare_output(folder, resume=False, overwrite=True, known=KNOWN_OUTPUTS)
    else:
        check_same_evaluation(folder, facts)
        check_same_systems(folder, [(each.system.name, each.journal, each.identity) for each in asked])
    if skipped.path is None:
        remove_file(folder / SKIPPED_FILE)
        skipped.keep_at(folder / SKIPPED_FILE)
    settings.save(folder)
    save_facts(folder, facts)


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


def _questions(
    settings: EvaluateSettings, systems: list[System], facts: dict[str, str], skipped: SkipLog, console: Console
) -> tuple[BaseModel, list[Asked]]:
    """The model, and what each system is asked: all of it before the first one answers, to refuse at once.

    Args:
        facts: what all answers depend on; gets the model's weights.
    """
    own = open_store(settings, console, model=settings.model, device=settings.device, precision=settings.precision)
    stores = stores_of(settings, systems, own)
    unlike = tuned_otherwise(systems)
    if unlike:
        console.warn(f"Not all adapters were tuned alike, so more than the name may tell them apart: {unlike}.")
    base = load_model(settings, console)
    check_adapters(base, base_marks(base), systems)
    facts["content of --model"] = weights_mark(base.model)
    questions = Questions(settings, base, stores, skipped)
    fingerprint_of = cache(fingerprint)
    asked = []
    for system in systems:
        choosing, rows = questions.of(system)
        own_facts = _own_facts(settings, system, choosing, rows, fingerprint_of)
        journal = settings.output_dir / ANSWERS / f"candidates_{settings.candidate_type}_{system.name}.jsonl"
        asked.append(Asked(system, choosing, rows, journal, identity_mark({**facts, **own_facts})))
    return base, asked


def _warn_of_strange_stores(asked: list[Asked], console: Console) -> None:
    """Say it where a system that is to look at pictures sees none: its figures would pass for those of pictures."""
    names: dict[Path, list[str]] = {}
    for each in asked:
        pictures = each.system.pictures
        if pictures is not None and not any(shown.has_picture for row in each.rows for shown in row.candidates):
            names.setdefault(pictures, []).append(each.system.name)
    for store, blind in names.items():
        console.warn(
            f"The item store {store}/ holds none of the candidates, so {', '.join(blind)} saw no picture at all: "
            "give the store of these items, or complete it with lavic embed."
        )


def _answer_all(
    settings: EvaluateSettings, base: BaseModel, asked: list[Asked], console: Console
) -> dict[str, Answered]:
    """All systems' answers, the judged one first, the baselines without a model last."""
    device = choose_device(settings.device)
    found: dict[str, Answered] = {}
    with make_fabric(device, choose_precision(settings.precision, device)).autocast():
        for each in asked:
            journal = Journal(each.journal, each.identity)
            with console.progress(f"Answering: {each.system.name}", len(each.rows)) as bar:
                found[each.system.name] = _answer(settings, base, each, journal, bar)
    judged = asked[0].rows
    for name, answer in _baselines(settings).items():
        found[name] = Answered(judged, answer(judged), 0.0)
    return found


def _baselines(settings: EvaluateSettings) -> dict[str, Callable[[Rows[AskedRow]], list[Answer]]]:
    return {RANDOM: lambda rows: answer_at_random(rows, settings.seed), IN_ORDER: answer_in_order}


def _own_facts(
    settings: EvaluateSettings,
    system: System,
    choosing: Choosing,
    rows: list[AskedRow],
    fingerprint_of: Callable[[Path], str],
) -> dict[str, str | int | None]:
    """What decides a system's answers beside what all systems have in common."""
    store = choosing.catalogue.store
    shown = {item_id for row in rows for item_id in row.item_ids}
    return {
        "candidate_type": settings.candidate_type,
        "adapter": None if system.adapter is None else fingerprint_of(system.adapter),
        "store": None if store is None else store.mark_of(shown, settings.images_per_item),
        "max_new_tokens": settings.max_new_tokens if system.greedy else None,
    }


def _answer(settings: EvaluateSettings, base: BaseModel, asked: Asked, journal: Journal, bar: Progress) -> Answered:
    rows, choosing = asked.rows, asked.choosing
    with answering(base, asked.system) as model:
        if asked.system.greedy:
            answers = answer_greedily(
                model,
                rows,
                choosing.catalogue,
                choosing.prompts,
                journal,
                batch_size=settings.batch_size,
                max_new_tokens=settings.max_new_tokens,
                tokenizer=base.tokenizer,
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
