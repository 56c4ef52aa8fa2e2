"""The rows of the table that speak of conversations: what ``conversations`` found, judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from lavic.check.conversations import Split
from lavic.check.data import examples, reasons
from lavic.check.dataset import spread_of, token_statistics
from lavic.check.findings import Counts, Finding, Status, no_go, ok, plural, share, warning

#: Listed of the bad rows with ``--json``; a file that is all garbage would fill the document.
MAX_LISTED = 1000


def judge_split(
    found: Split, titles: Mapping[str, str] | None, *, pictured: bool, max_left_out: float
) -> list[Finding]:
    """The rows of one file.

    Args:
        titles: by item ID; None if the metadata cannot be read, which has a row of its own.
        pictured: whether candidates are shown with pictures, and it is known which have one.
    """
    rows = [_conversations(found)]
    if not found.given:
        return rows
    if found.usable:
        rows += [_candidates(found, titles, pictured=pictured), _right_items(found)]
    if found.tokenised:
        rows.append(_prompts(found))
    return [*rows, _usable(found, max_left_out)]


def as_advice(findings: list[Finding]) -> list[Finding]:
    """The same rows where they are no reason against the run: of a file that only what comes after it needs."""
    return [
        replace(finding, status=Status.WARNING, remedy=f"Only lavic evaluate reads this file. {finding.remedy}")
        if finding.status is Status.NO_GO
        else finding
        for finding in findings
    ]


def _conversations(found: Split) -> Finding:
    name = f"{found.part} conversations"
    facts = [f"{found.path}: {plural(len(found.given), 'conversation')} with candidates"]
    if found.complete:
        facts.append(f"read as far as --max_samples {found.max_samples} needs")
    if found.bad:
        facts += [f"rows that cannot be used: {share(len(found.bad), found.read)}", *examples(found.bad)]
    if found.double_keys:
        facts.append(f"keys that stand twice in a row, the first taken: {found.double_keys:,}")
    if found.failure is not None:
        problem = f"{found.failure.where}: {found.failure.problem}"
        remedy = found.failure.remedy or "Give --conversations and --category, or copy the file again."
        return no_go(name, problem, *(facts if found.read else ()), remedy=remedy)
    if found.bad:
        return warning(name, *facts, remedy="These rows are left out: correct them, or go without.")
    return ok(name, *facts)


def _candidates(found: Split, titles: Mapping[str, str] | None, *, pictured: bool) -> Finding:
    name, lines = f"{found.part} candidates", found.candidates
    facts = [f"{len(lines):,} in {plural(found.usable, 'prompt')}: {plural(len({c.item_id for c in lines}), 'item')}"]
    remedies = []
    if found.double_candidates:
        facts.append(f"that stand twice in a list, taken once: {found.double_candidates:,}")
    untitled = [] if titles is None else [line.item_id for line in lines if line.item_id not in titles]
    if untitled:
        facts.append(f"without metadata: {share(len(untitled), len(lines))}, {plural(len(set(untitled)), 'item')}")
        remedies.append("Those without metadata are shown as 'No Title': give --item_meta_path and --val_data.")
    bare = [line.item_id for line in lines if not line.has_picture] if pictured else []
    if pictured:
        facts.append(f"without a picture: {share(len(bare), len(lines))}, {plural(len(set(bare)), 'item')}")
    if len(bare) == len(lines):
        remedy = "Give the --item_store of these items, or --text_only to tune without pictures."
        return no_go(name, *facts, remedy=remedy)
    if bare:
        remedies.append("Those without a picture are shown by ID and title alone: add them to the item store.")
    return warning(name, *facts, remedy=" ".join(remedies)) if remedies else ok(name, *facts)


def _right_items(found: Split) -> Finding:
    name = f"{found.part} right items"
    if found.training:
        facts = [f"not among the candidates, put there: {share(found.put_in, found.usable)}"]
        if found.unanswered:
            facts.append(f"conversations without one: {len(found.unanswered):,}")
            return warning(name, *facts, remedy="Those without a right item are left out: nothing can be learnt.")
        return ok(name, *facts)
    fact = f"among the candidates: {share(found.with_right, found.usable)}, the ceiling of HR@1"
    if not found.with_right:
        remedy = "No answer can be right: see whether --candidate_type names the list that was meant."
        return no_go(name, fact, remedy=remedy)
    return ok(name, fact)


def _prompts(found: Split) -> Finding:
    name, facts, remedies = f"{found.part} prompts", [], []
    statistics = token_statistics(found.lengths)
    if statistics:
        facts.append(spread_of(statistics, " tokens"))
    facts.append(f"conversations shortened: {found.shortened:,}; too long all the same: {len(found.too_long):,}")
    facts += examples(found.too_long)
    if found.wrong:
        facts += [f"not as they should be: {len(found.wrong):,}", *examples(found.wrong)]
        return no_go(name, *facts, remedy="Compare --prompts and the tokenizer with those of the model.")
    if statistics:
        facts.append("in each: all placeholders of its pictures, an answer with loss, no candidate cut")
    if found.shortened:
        remedies.append("Shortened conversations lose their middle: a larger --max_length leaves it.")
    if found.too_long:
        remedies.append("Those that are too long are left out: a larger --max_length takes them in.")
    return warning(name, *facts, remedy=" ".join(remedies)) if remedies else ok(name, *facts)


def _usable(found: Split, max_left_out: float) -> Finding:
    name = f"{found.part} samples"
    facts = [f"{plural(found.usable, 'sample')}; rows left out: {share(found.left_out, found.read)}"]
    if not found.usable:
        facts += reasons(Counter(reason for _, reason in (*found.bad, *found.unanswered, *found.too_long)))
        return no_go(name, *facts, remedy="Nothing is left to work on: see the reasons.")
    if not found.complete and found.left_out > max_left_out * found.read:
        remedy = (
            f"More than --max_left_out {max_left_out:g} is lost: mend what the rows above name, "
            "or allow it with a larger share."
        )
        return no_go(name, *facts, remedy=remedy)
    if found.max_samples is not None and not found.complete:
        facts.append(f"--max_samples {found.max_samples:,} asks for more than there are")
        return warning(name, *facts, remedy="Take all there are with --max_samples none, or find more.")
    return ok(name, *facts)


def counts_of_split(found: Split, titles: Mapping[str, str] | None, *, pictured: bool) -> Counts:
    """All numbers of one file, for ``--json``; None where one cannot be known."""
    lines = found.candidates
    return {
        "rows": found.read,
        "conversations": len(found.given),
        "bad_rows": len(found.bad),
        "bad_row_list": [f"{line}: {reason}" for line, reason in found.bad[:MAX_LISTED]],
        "samples": found.usable,
        "left_out": found.left_out,
        "candidates": len(lines),
        "candidates_without_metadata": None if titles is None else sum(line.item_id not in titles for line in lines),
        "candidates_without_picture": sum(not line.has_picture for line in lines) if pictured else None,
        "candidates_listed_twice": found.double_candidates,
        **({"without_right_item": len(found.unanswered), "right_item_put_in": found.put_in} if found.training else {}),
        **({} if found.training else {"right_item_among_candidates": found.with_right}),
        "shortened": found.shortened,
        "too_long": len(found.too_long),
        "tokens": token_statistics(found.lengths),
    }
