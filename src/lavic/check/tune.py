"""``lavic check tune``: the same for stage 2; nothing is written, nothing downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from lavic.check import item_store, machine, output
from lavic.check.config import CheckTuneSettings
from lavic.check.conversation_rows import as_advice, counts_of_split, judge_split
from lavic.check.conversations import PARTS, Split, look_at_split
from lavic.check.data import reasons
from lavic.check.dataset import Listed
from lavic.check.findings import Finding, guarded, no_go, ok, plural, warning
from lavic.check.memory import Lengths, estimate_tuning
from lavic.check.report import Report, command_line
from lavic.console import Console, Outcome
from lavic.embed.store import ItemStore
from lavic.formats import NO_TITLE_NOTE
from lavic.model.recommendation import RecommendationPrompts
from lavic.skipped import SkipLog
from lavic.tune.conversations import Catalogue, read_titles
from lavic.tune.run import known_identity


@dataclass(kw_only=True)
class TuneReport(Report):
    """The rows of stage 2, and what they speak of.

    Attributes:
        titles: by item ID; None as long as the metadata are not read.
        store: or what stands in for one that the run will make; None shows no pictures.
        splits: by name, those that could be read.
    """

    settings: CheckTuneSettings
    titles: Mapping[str, str] | None = None
    store: ItemStore | None = None
    splits: dict[str, Split] = field(default_factory=dict)


def run(settings: CheckTuneSettings, console: Console) -> Outcome:
    """Check everything that the planned run depends on; exit code 1 says no go."""
    report = TuneReport(settings=settings, console=console)
    report.look_at_model(
        settings.model, lambda facts: facts.trainable_language(settings.lora_r, lm_head=settings.lm_head)
    )
    prompts = _prompts(report)
    report.make("titles", lambda: _titles(report))
    _store(report)
    for split in PARTS:
        report.findings += _split(report, split, prompts)
    report.make("device", lambda: machine.device(settings, report.facts))
    _memory(report)
    if settings.quantize == "nf4" or settings.compile:
        report.make("short cuts", lambda: machine.short_cuts(settings))
    train = report.splits.get("train")
    if train is not None and train.samples:
        report.plan(settings, len(train.samples))
    report.disk(settings)
    report.make("output folder", lambda: output.folder(settings.planned(), known_identity))
    report.make("log folder", lambda: output.log_folder(settings))
    report.make("versions", machine.library_versions)
    return report.outcome(command_line("lavic tune", settings.planned()))


def _prompts(report: TuneReport) -> RecommendationPrompts | None:
    builder = report.builder(report.settings.prompts)
    return None if builder is None else RecommendationPrompts(builder, report.settings.max_length)


def _titles(report: TuneReport) -> Finding:
    """What the items are called.

    Raises:
        InputError: a metadata file cannot be used.
    """
    settings, skipped = report.settings, Listed()
    report.titles = read_titles(settings, skipped)
    files = [str(path) for path in (settings.item_meta_path, settings.val_data) if path is not None]
    report.counts["titles"] = {"items": len(report.titles), "rows_left_out": skipped.count}
    if not files:
        remedy = "Every item is shown as 'No Title': give --item_meta_path."
        return warning("titles", "no metadata are given", remedy=remedy)
    facts = [f"{', '.join(files)}: {plural(len(report.titles), 'item')}", *reasons(skipped.by_reason)]
    missing = skipped.notes[NO_TITLE_NOTE]
    if missing:
        facts.append(f"titles missing: {missing:,}")
    if not report.titles:
        return no_go("titles", *facts, remedy="Give --item_meta_path a file of items; docs/formats.md shows one.")
    if skipped.count or missing:
        return warning("titles", *facts, remedy="Those items are shown as 'No Title': complete the metadata.")
    return ok("titles", *facts)


def _store(report: TuneReport) -> None:
    settings = report.settings
    if settings.text_only:
        report.findings.append(ok(item_store.NAME, "none is needed: --text_only shows no pictures"))
        return

    def look() -> Finding:
        finding, report.store = item_store.open_or_plan(settings, report.facts)
        return finding

    report.make(item_store.NAME, look)
    store = report.store
    if store is None or isinstance(store, item_store.PlannedStore):
        return
    report.counts["item_store"] = {"items": len(store), "unfinished": store.unfinished}
    report.make(item_store.MAKER, lambda: item_store.compare(store, settings, report.facts))


def _split(report: TuneReport, split: str, prompts: RecommendationPrompts | None) -> list[Finding]:
    settings, titles, pictured = report.settings, report.titles, report.store is not None

    def look() -> list[Finding]:
        catalogue = Catalogue(titles or {}, report.store, SkipLog(), settings.images_per_item)
        found = look_at_split(split, settings, catalogue, prompts, report.console)
        report.splits[split] = found
        report.counts[split] = counts_of_split(found, titles, pictured=pictured)
        return judge_split(found, titles, pictured=pictured, max_left_out=settings.max_left_out)

    findings = guarded(f"{PARTS[split]} conversations", look)
    # The run itself never opens the test file.
    return as_advice(findings) if split == "test" else findings


def _memory(report: TuneReport) -> None:
    settings, facts = report.settings, report.facts
    train, valid = report.splits.get("train"), report.splits.get("valid")
    lengths = Lengths(
        sample=_longest(train, settings.max_length),
        answer=train.answer_tokens if train is not None and train.answer_tokens else settings.max_length,
        row=_longest(valid, settings.max_length),
        choices=valid.choice_tokens if valid is not None and valid.choice_tokens else settings.max_length,
        rows=valid.usable if valid is not None and valid.usable else settings.max_length,
    )
    report.memory(settings, None if facts is None else partial(estimate_tuning, settings, facts, lengths=lengths))


def _longest(found: Split | None, otherwise: int) -> int:
    """Tokens of the longest prompt with its answer; as many as there may be where they are not known."""
    return max((length for length, _ in found.lengths), default=otherwise) if found is not None else otherwise
