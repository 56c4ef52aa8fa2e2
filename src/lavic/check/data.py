"""The rows of the table that speak of data: what ``dataset`` found, judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lavic.check.dataset import EXAMPLES, DataSet, spread_of, token_statistics
from lavic.check.findings import Counts, Finding, Status, no_go, ok, plural, share, warning


def judge(found: DataSet, *, max_left_out: float, max_length: int) -> list[Finding]:
    """The rows of one data set."""
    rows = [_metadata(found)]
    if not found.read:
        return [*rows, *_folder(found)]
    rows += [_texts(found), _pictures(found)]
    if found.tokenised:
        rows.append(_tokens(found, max_length))
    if found.untaught:
        facts = reasons(Counter(reason for _, reason in found.untaught))
        remedy = "Those are left out: run lavic describe with --top_logits again, or go without."
        rows.append(warning(f"{found.place.part} descriptions of the teacher", *facts, remedy=remedy))
    return [*rows, _usable(found, max_left_out)]


def _metadata(found: DataSet) -> Finding:
    name, place = f"{found.place.part} metadata", found.place
    facts = [f"{place.metadata}: {plural(found.read, 'described picture')} of {plural(found.items, 'product')}"]
    if found.complete:
        facts.append(f"read as far as --max_samples {place.max_samples} needs")
    facts += reasons(found.left_out_rows)
    if found.failure is not None:
        remedy = found.failure.remedy or (
            f"Give {place.metadata_flag}, or make a small world to try: lavic toyshop --output_dir toyshop --items 600."
        )
        problem = f"{found.failure.where}: {found.failure.problem}"
        return no_go(name, problem, *(facts if found.read else ()), remedy=remedy)
    if not found.read:
        remedy = f"Give {place.metadata_flag} a file of pictures with descriptions; docs/formats.md shows one."
        return no_go(name, *facts, remedy=remedy)
    if found.left_out_rows:
        return warning(name, *facts, remedy="These rows are left out: correct them, or go without.")
    return ok(name, *facts)


def _texts(found: DataSet) -> Finding:
    name = f"{found.place.part} texts"
    doubles = sum(count - 1 for count in found.names.values())
    facts = [f"descriptions empty: {found.empty:,}; titles missing: {found.titles_missing:,}"]
    remedies = []
    if found.empty:
        remedies.append("pictures without a description are left out")
    if found.titles_missing:
        remedies.append("a missing title is taught as 'No Title'")
    if doubles:
        facts.append(f"pictures described more than once: {doubles:,}")
        remedies.append("a picture described twice counts twice")
    if not remedies:
        return ok(name, *facts)
    sentence = ", ".join(remedies)
    return warning(name, *facts, remedy=f"{sentence[0].upper()}{sentence[1:]}: complete the metadata, or go without.")


def _pictures(found: DataSet) -> Finding:
    name, place, report = f"{found.place.part} pictures", found.place, found.pictures
    for no_folder in _folder(found):
        return no_folder
    looked = len(found.missing) + report.opened
    facts = [f"missing or empty: {share(len(found.missing), looked)}"]
    facts += reasons(Counter(reason for _, reason in found.missing))
    if report.decoded == report.opened > 0:
        facts.append(f"all {report.opened:,} present ones decoded: {len(report.broken):,} broken")
    elif report.opened:
        facts.append(f"{report.opened:,} opened at both ends, {report.decoded:,} of them decoded:")
        facts.append(f"{len(report.broken):,} broken; the other {report.opened - report.decoded:,} were not decoded")
    facts += examples((path.name, problem) for path, problem in report.broken.items())
    if found.missing or report.broken:
        remedy = f"They are left out: fetch them again into {place.images_dir}, or go without."
        return warning(name, *facts, remedy=remedy)
    return ok(name, *facts)


def _folder(found: DataSet) -> list[Finding]:
    """A row if the folder of pictures itself is not there."""
    folder = found.place.images_dir
    if folder.is_dir():
        return []
    what = "is not a folder" if folder.exists() else "there is no such folder"
    return [no_go(f"{found.place.part} pictures", f"{folder}: {what}", remedy=f"Give {found.place.images_flag}.")]


def _tokens(found: DataSet, max_length: int) -> Finding:
    name, views = f"{found.place.part} tokens", len(found.samples[0].sequence.placeholders) if found.samples else 0
    facts = []
    statistics = token_statistics(found.lengths)
    if statistics:
        facts.append(spread_of(statistics))
    facts.append(f"over --max_length {max_length:,}: {len(found.too_long):,}")
    facts += examples(sorted(found.too_long, key=lambda pair: -int(pair[1].split()[0])))
    if found.wrong:
        facts += [f"not as they should be: {len(found.wrong):,}", *examples(found.wrong)]
        return no_go(name, *facts, remedy="Compare --prompts and the tokenizer with those of the model.")
    if found.samples:
        facts.append(f"in each: {plural(views, 'placeholder')}, a description with loss, EOS last")
    if found.too_long:
        return warning(name, *facts, remedy="Those are left out, never cut: a larger --max_length takes them in.")
    return ok(name, *facts)


def _usable(found: DataSet, max_left_out: float) -> Finding:
    name, left_out = f"{found.place.part} samples", found.left_out
    facts = [f"{plural(len(found.samples), 'sample')}; left out: {share(left_out, left_out + len(found.samples))}"]
    if not found.samples:
        return no_go(name, *facts, remedy="Nothing is left to work on: see the rows above for the reasons.")
    if found.place.max_samples is not None and not found.complete:
        facts.append(f"--max_samples {found.place.max_samples:,} asks for more than there are")
    if found.left_out_share > max_left_out and not found.complete:
        remedy = (
            f"More than --max_left_out {max_left_out:g} is lost: mend what the rows above name, "
            "or allow it with a larger share."
        )
        return no_go(name, *facts, remedy=remedy)
    if found.place.max_samples is not None and not found.complete:
        return Finding(name, Status.WARNING, tuple(facts), "Take all there are with --max_samples none, or find more.")
    return ok(name, *facts)


def leak(train: DataSet, valid: DataSet) -> Finding:
    """Pictures that are trained on and validated with."""
    name = "training and validation"
    both = sorted(train.names.keys() & valid.names.keys())
    if not both:
        return ok(name, "no picture name is in both")
    return warning(
        name,
        f"picture names in both: {share(len(both), len(valid.names))} of validation",
        f"for example {', '.join(both[:EXAMPLES])}",
        remedy="The validation loss will flatter: take them out of one of the two files.",
    )


def reasons(counts: Counter[str]) -> list[str]:
    """The most frequent reasons, each with its number."""
    shown = [f"{count:,} x {reason}" for reason, count in counts.most_common(EXAMPLES)]
    rest = counts.total() - sum(count for _, count in counts.most_common(EXAMPLES))
    return [*shown, f"{rest:,} x other reasons"] if rest else shown


def examples(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """The first few of what is named."""
    named = [f"{name}: {problem}" for name, problem in pairs]
    more = [f"and {len(named) - EXAMPLES:,} more"] if len(named) > EXAMPLES else []
    return [*named[:EXAMPLES], *more]


def counts_of(found: DataSet) -> Counts:
    """All numbers of one data set, for ``--json``."""
    return {
        "described_pictures": found.read,
        "products": found.items,
        "rows_left_out": found.left_out_rows.total(),
        "row_reasons": dict(found.left_out_rows.most_common()),
        "descriptions_empty": found.empty,
        "titles_missing": found.titles_missing,
        "pictures_missing": len(found.missing),
        "pictures_opened": found.pictures.opened,
        "pictures_decoded": found.pictures.decoded,
        "pictures_broken": len(found.pictures.broken),
        "too_long": len(found.too_long),
        "not_in_teachers_probabilities": len(found.untaught),
        "samples": len(found.samples),
        "left_out": found.left_out,
        "tokens": token_statistics(found.lengths),
    }
