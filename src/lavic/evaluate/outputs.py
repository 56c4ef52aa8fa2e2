"""What an evaluation writes and prints: figures, answers, a page with pictures."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

from lavic.console import Console, Outcome
from lavic.evaluate.answers import Answered, ranked
from lavic.evaluate.config import EvaluateSettings
from lavic.evaluate.metrics import measure
from lavic.evaluate.page import choose_rows, report_page, show
from lavic.evaluate.results import (
    TABLE_HEADER,
    SystemResult,
    append_summary,
    measures_table,
    write_results,
    write_test_results,
)
from lavic.evaluate.systems import System
from lavic.files import write_atomic, write_json
from lavic.skipped import SkipLog
from lavic.tune.conversations import category_file
from lavic.tune.samples import AskedRow

RESULTS_FILE, SUMMARY_FILE, PAGE_FILE = "results.json", "results_summary.csv", "report.html"
#: The same as ``RESULTS_FILE`` by list of candidates, where that is the last evaluation's.
LIST_RESULTS = "results_candidates_{}.json"


def report(
    settings: EvaluateSettings,
    systems: list[System],
    found: dict[str, Answered],
    skipped: SkipLog,
    console: Console,
) -> Outcome:
    """Measure, write everything, print the table.

    Args:
        found: by system, the judged one first, the baselines without a model last.
    """
    results = []
    with_model = {system.name for system in systems}
    for name, answered in found.items():
        rows = [ranked(row, answer) for row, answer in zip(answered.rows, answered.answers, strict=True)]
        measures = measure(rows, seed=settings.seed, resamples=settings.resamples)
        results.append(SystemResult(name, rows, measures, answered.seconds, looks=name in with_model))
    about = {
        "model": settings.model,
        "conversations": str(category_file(settings, settings.split)),
        "candidate_type": settings.candidate_type,
        "left_out": skipped.summary(),
    }
    document = write_results(
        settings.output_dir / RESULTS_FILE, results, about=about, seed=settings.seed, resamples=settings.resamples
    )
    write_json(settings.output_dir / LIST_RESULTS.format(settings.candidate_type), document)
    # Both in one order; the baselines behind the systems have no files of their own.
    for system, result in zip(systems, results, strict=False):
        _write_answers(settings, system, found[system.name], result, judged=result is results[0])
    _write_page(settings, found[results[0].name].rows, results, of_models=len(systems))
    title = f"{len(results[0].rows)} conversations; Recall@1 as published, pictures: share of candidates with one"
    console.table(measures_table(results), header=TABLE_HEADER, title=title)
    for note, count in skipped.notes.most_common():
        console.info(f"{count} {note}")
    if skipped.count:
        console.warn(f"{skipped.count} rows were left out; {skipped.path} lists them.")
    summary: dict[str, Any] = {"output_dir": str(settings.output_dir), **document, **skipped.summary()}
    return Outcome(summary=summary, printed=True, next_step=f"Open {settings.output_dir / PAGE_FILE} in a browser.")


def _write_answers(
    settings: EvaluateSettings, system: System, answered: Answered, result: SystemResult, *, judged: bool
) -> None:
    """``test_results_<candidates>.jsonl`` of the judged system, the others with their name behind; a summary line."""
    mark = "" if judged else f"_{system.name}"
    path = settings.output_dir / f"test_results_candidates_{settings.candidate_type}{mark}.jsonl"
    write_test_results(
        path,
        [row.conversation for row in answered.rows],
        settings.candidate_type,
        result.rows,
        [answer.response for answer in answered.answers],
    )
    if system.recommender is None:
        return
    trained = system.recommender
    append_summary(
        settings.output_dir / SUMMARY_FILE,
        {
            "model_dir": str(system.adapter),
            "candidate_type": f"candidates_{settings.candidate_type}",
            "lr": trained.lr,
            "weight_decay": trained.weight_decay,
            "num_epochs": trained.num_epochs,
            "recall@1": result.measures.values["recall@1"].value,
            "validity@1": result.measures.values["validity@1"].value,
            "output_file": path.name,
        },
    )


def _write_page(
    settings: EvaluateSettings, rows: Rows[AskedRow], results: list[SystemResult], *, of_models: int
) -> None:
    """``report.html``, with the answers of the first ``of_models`` systems beside the pictures."""
    folders = [settings.train_images_dir, settings.val_images_dir]
    shown = []
    for at in choose_rows(rows, settings.sample, settings.seed):
        chosen = {each.name: each.rows[at].recommended for each in results[:of_models]}
        shown.append(show(rows[at], folders, chosen))
    about = {"model": settings.model, "candidates": settings.candidate_type}
    write_atomic(settings.output_dir / PAGE_FILE, report_page(results, shown, about))
