"""``lavic data stats``: figures, leaks and a contact sheet of a data set, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavic.console import Console, Outcome
from lavic.data.config import StatsSettings
from lavic.errors import ConfigError
from lavic.files import FolderLock, atomic_path, json_line, prepare_marked, write_json
from lavic.rendering import flat
from lavic.skipped import SkipLog

if TYPE_CHECKING:
    from lavic.data.conversation_facts import ConversationFacts
    from lavic.data.lots import Lots
    from lavic.data.picture_facts import Duplicates
    from lavic.data.sheet import Card
    from lavic.data.stats import Part

MARKER = "stats.json"
DUPLICATES = "duplicates.jsonl"
OUTPUTS = (MARKER, "sheet.html", "sheet.png", DUPLICATES, "skipped.jsonl")


def run_stats(settings: StatsSettings, console: Console) -> Outcome:
    """Count, print, and write the sheet."""
    # The tokenizer brings transformers: `lavic data stats --help` must not wait for it.
    from lavic.data.tokens import token_counter

    parts = _parts(settings)
    count_tokens = token_counter(settings.model)
    folder = settings.output_dir
    if folder is None:
        return _look(settings, console, parts, count_tokens, None)
    with FolderLock(folder):
        prepare_marked(folder, MARKER, OUTPUTS, "earlier figures", overwrite=settings.overwrite)
        # The mark that the folder may be replaced; the figures follow at the end.
        write_json(folder / MARKER, {"complete": False})
        return _look(settings, console, parts, count_tokens, folder)


def _parts(settings: StatsSettings) -> list[Part]:
    """The sides that are given and there."""
    from lavic.data.listing import require_file, require_folder
    from lavic.data.stats import Part

    sides = (
        ("train", settings.train_data, settings.train_images_dir, "--train_data", "--train_images_dir"),
        ("valid", settings.val_data, settings.val_images_dir, "--val_data", "--val_images_dir"),
    )
    parts = []
    for name, metadata, images_dir, flag, images_flag in sides:
        require_file(metadata, flag)
        if metadata is not None:
            require_folder(images_dir, images_flag)
            parts.append(Part(name, metadata, images_dir))
    if not parts and settings.conversations is None:
        raise ConfigError("nothing to look at", remedy="Give --train_data, --val_data or --conversations.")
    return parts


def _look(
    settings: StatsSettings,
    console: Console,
    parts: list[Part],
    count_tokens: Callable[[str], int],
    folder: Path | None,
) -> Outcome:
    from lavic.data.lots import Lots
    from lavic.data.picture_facts import Duplicates
    from lavic.data.sheet import Card, write_sheet

    skipped_path = folder / "skipped.jsonl" if folder else None
    duplicates, cards = Duplicates(), Lots[Card](settings.sheet_items if folder else 0, settings.seed)
    summary: dict[str, Any] = {"tokenizer": settings.model}
    summary |= _metadata(parts, console, count_tokens, duplicates, cards, skipped_path)
    if settings.conversations is not None:
        summary["conversations"] = _conversations(settings.conversations, console, count_tokens, skipped_path)
    next_step = ""
    if folder is not None:
        _write_duplicates(folder / DUPLICATES, duplicates)
        drawn = list(cards.kept().values())
        if drawn:
            write_sheet(folder, drawn, settings.seed)
            next_step = f"Next: look at {folder / 'sheet.html'}."
        write_json(folder / MARKER, {"complete": True, **summary})
    if not console.json:
        _print(summary, console)
    return Outcome(summary, next_step=next_step, printed=True)


def _metadata(
    parts: list[Part],
    console: Console,
    count_tokens: Callable[[str], int],
    duplicates: Duplicates,
    cards: Lots[Card],
    skipped_path: Path | None,
) -> dict[str, Any]:
    """The figures of the sides, and what stands on both."""
    from lavic.data.stats import look_at_part, shared_names

    found = {}
    for part in parts:
        skipped = _Continued(skipped_path)
        with console.progress(f"Looking at the {part.name} metadata and pictures", None) as bar:
            found[part.name] = look_at_part(part, skipped, count_tokens, duplicates, cards, advance=bar.advance)
    looked = {part.name: part.images_dir is not None for part in parts}
    summary: dict[str, Any] = {name: facts.summary(looked[name]) for name, facts in found.items()}
    if any(looked.values()):
        summary["same_files"] = duplicates.summary()
    if len(found) > 1:
        summary["leaks"] = shared_names(found)
    return summary


class _Continued(SkipLog):
    """A log of one file among several that share a list: it counts only its own cases."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(None)
        self.path = path


def _conversations(
    folder: Path, console: Console, count_tokens: Callable[[str], int], skipped_path: Path | None
) -> dict[str, Any]:
    """Category -> split -> figures, and the posts that stand in two splits."""
    from lavic.data.conversation_facts import look_at_conversations, shared_posts
    from lavic.layout import conversation_files

    summary: dict[str, Any] = {}
    for category, splits in conversation_files(folder).items():
        found: dict[str, ConversationFacts] = {}
        for split, path in splits.items():
            with console.progress(f"Reading {category}/{split}.jsonl", None):
                found[split] = look_at_conversations(path, _Continued(skipped_path), count_tokens)
        summary[category] = {split: facts.summary() for split, facts in found.items()}
        if len(found) > 1:
            summary[category]["opening_posts_in_two_splits"] = shared_posts(found)
    return summary


def _write_duplicates(path: Path, duplicates: Duplicates) -> None:
    with atomic_path(path) as part, part.open("wb") as stream:
        for sha256, files, leak in duplicates.groups():
            stream.write(json_line({"sha256": sha256, "files": files, "leak": leak}))


def _print(summary: dict[str, Any], console: Console) -> None:
    """A table of both sides beside each other, one of each category, one of the rest."""
    console.print(f"Tokens are those of the tokenizer of {summary['tokenizer']}.")
    sides: dict[str, Any] = {name: summary[name] for name in ("train", "valid") if name in summary}
    if sides:
        _beside(sides, console, "Metadata and pictures")
    rest: dict[str, Any] = {name: summary[name] for name in ("same_files", "leaks") if name in summary}
    if rest:
        console.summary(rest, title="\nThe same on both sides, or twice")
    for category, splits in summary.get("conversations", {}).items():
        files = {name: facts for name, facts in splits.items() if "rows" in facts}
        _beside(files, console, f"\nConversations: {category}")
        if "opening_posts_in_two_splits" in splits:
            console.summary(splits["opening_posts_in_two_splits"], title="Opening posts in two splits")


def _beside(columns: dict[str, dict[str, Any]], console: Console, title: str) -> None:
    """Several summaries with the same names as one table."""
    pairs = {name: dict(flat(_shortened(facts))) for name, facts in columns.items()}
    names = list(dict.fromkeys(name for facts in pairs.values() for name in facts))
    rows = [[name.replace("_", " "), *(facts.get(name) for facts in pairs.values())] for name in names]
    console.table(rows, header=["", *pairs], title=title)


def _shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """The same with each distribution on one line."""
    short = {}
    for name, value in facts.items():
        if isinstance(value, dict) and "median" in value:
            value = (
                f"{value['median']:,.10g} (mean {value['mean']:,.10g}, 95 % up to {value['p95']:,}, "
                f"{value['min']:,} to {value['max']:,})"
            )
            name += ", median"
        short[name] = _shortened(value) if isinstance(value, dict) else value
    return short
