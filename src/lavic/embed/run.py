"""``lavic embed``: the visual tokens of every item's pictures, computed once, into an item store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavic.config import CONFIG_FILE, VERSIONS_FILE
from lavic.console import Console, Outcome
from lavic.embed.compute import Tally, embed
from lavic.embed.config import ALL, EmbedSettings
from lavic.embed.identity import adapter_mark, library_versions, model_marks, what_differs
from lavic.embed.items import Found, ListedItem, check_data, find_pictures, read_items
from lavic.embed.ledger import LEDGER_FILE, Ledger, read_ledger
from lavic.embed.pending import Work, find_work
from lavic.embed.store import FORMAT, KIND, STORE_FILE, TOKENS_FILE, read_about
from lavic.embed.towers import FiveTokenTower, FullTokenTower
from lavic.embed.writer import StoreWriter
from lavic.errors import NothingLeftError, OutputError
from lavic.files import FolderLock, prepare_output
from lavic.folders import contents
from lavic.layout import ABSENT
from lavic.model.load import check_source, load_base, public_name
from lavic.rendering import duration
from lavic.skipped import SkipLog, most_frequent
from lavic.training.devices import choose_device, choose_precision, weights_dtype
from lavic.training.failures import machine_failures
from lavic.training.interrupts import Interrupts, StopRequested

SKIPPED_NAME = "skipped.jsonl"
#: What --overwrite deletes; the first says that there is a store.
KNOWN_OUTPUTS = (STORE_FILE, LEDGER_FILE, TOKENS_FILE, CONFIG_FILE, VERSIONS_FILE)
GONE = "pictures that are gone; their tokens stay"
_MEMORY_REMEDY = "Use a smaller --batch_size or --num_workers; what was computed is stored."


def make_store(settings: EmbedSettings, console: Console) -> Path:
    """Make or complete a store, as ``lavic embed`` does; returns its folder. Raises as ``run`` does."""
    run(settings, console)
    return settings.output_dir


def run(settings: EmbedSettings, console: Console) -> Outcome:
    """Compute what is missing.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; whole batches are stored.
        LavicError: see ``lavic.errors``; what is stored stays.
    """
    precision = choose_precision(settings.precision, choose_device(settings.device))
    check_source(settings.model)
    check_data(settings)
    # What is known before the model is loaded.
    maker = {
        "adapter": adapter_mark(settings.adapter),
        "image_tokens": settings.image_tokens,
        "dtype": settings.store_dtype,
        "precision": precision,
    }
    with machine_failures(_MEMORY_REMEDY), FolderLock(settings.output_dir):
        known = _stored(settings)
        _refuse_other(settings, known, maker)
        with SkipLog(settings.output_dir / SKIPPED_NAME) as skipped:
            return _complete(settings, console, known, maker, Tally(skipped))


def _stored(settings: EmbedSettings) -> dict[str, Any] | None:
    """``store.json`` of the store that is to be completed; None where none is there, or it is to be replaced."""
    folder = settings.output_dir
    if not settings.overwrite and (folder / STORE_FILE).exists():
        prepare_output(folder, resume=True, overwrite=False, known=KNOWN_OUTPUTS)
        return read_about(folder)
    # A run that found no picture left only the list of why.
    foreign = [path for path in contents(folder) if path.name != SKIPPED_NAME]
    harmless = settings.overwrite or not foreign
    prepare_output(folder, resume=harmless, overwrite=False, known=KNOWN_OUTPUTS, can_resume=False)
    return None


def _refuse_other(settings: EmbedSettings, known: Mapping[str, Any] | None, maker: Mapping[str, Any]) -> None:
    """Never mix tokens of two models in one store."""
    different = what_differs(known, maker) if known is not None else ""
    if different:
        raise OutputError(
            f"the store was made with {different}",
            where=str(settings.output_dir),
            remedy="Give what it was made with, choose another --output_dir, or make it anew with --overwrite.",
        )


def _complete(
    settings: EmbedSettings, console: Console, known: dict[str, Any] | None, maker: Mapping[str, Any], tally: Tally
) -> Outcome:
    items = read_items(settings, tally.skipped)
    found = find_pictures(items, settings.images_per_item)
    ledger = Ledger() if known is None else read_ledger(settings.output_dir)
    _list_problems(found, ledger, tally)
    _require_pictures(settings, found, ledger, tally.skipped)
    work = _find_work(settings, console, found, ledger)
    for problem in work.problems:
        tally.list(problem)
    about, tower = known, None
    if known is None or work.pending or known["model"]["name"] != public_name(settings.model):
        about, tower = _load(settings, console, known, maker)
    assert about is not None, "a new store's model was loaded"
    with StoreWriter(settings.output_dir, about) as writer:
        if tower is not None and work.pending:
            settings.save(settings.output_dir)
            embed(settings, console, writer, tower, work, tally)
        writer.finish(_bad(items, writer.ledger, tally))
    return _outcome(settings, console, items, writer.ledger, work, tally)


def _list_problems(found: Found, ledger: Ledger, tally: Tally) -> None:
    stored = ledger.items()
    for problem in found.problems:
        if problem.reason == ABSENT and problem.item_id in stored:
            tally.skipped.note(GONE)
        else:
            tally.list(problem)


def _require_pictures(settings: EmbedSettings, found: Found, ledger: Ledger, skipped: SkipLog) -> None:
    """Stop if there is nothing to make a store of: most likely a folder is the wrong one.

    Raises:
        NothingLeftError: there are no items, or none has a picture, and nothing is stored.
    """
    if found.pictures or ledger.pictures:
        return
    where = str(settings.item_meta_path or settings.val_data)
    lists = f"{skipped.path} lists them all." if skipped.count else ""
    if not found.items:
        raise NothingLeftError("there are no items in it", where=where, remedy=lists)
    raise NothingLeftError(
        f"none of the {found.items:,} items has a picture; {most_frequent(skipped.by_reason)}",
        where=where,
        remedy=f"Check --train_images_dir and --val_images_dir. {lists}",
    )


def _find_work(settings: EmbedSettings, console: Console, found: Found, ledger: Ledger) -> Work:
    """Look at what is stored already; a Ctrl-C meanwhile costs nothing."""
    stored = sum(picture.key in ledger.pictures for picture in found.pictures)
    with Interrupts(console.warn) as interrupts, console.progress("Checking pictures", stored or None) as bar:

        def look() -> None:
            bar.advance()
            interrupts.check()

        try:
            return find_work(found, ledger, settings.num_workers, look)
        except StopRequested:
            raise KeyboardInterrupt from None


def _load(
    settings: EmbedSettings, console: Console, known: dict[str, Any] | None, maker: Mapping[str, Any]
) -> tuple[dict[str, Any], FiveTokenTower | FullTokenTower]:
    """The model, and what goes into ``store.json``; an old store is thrown away here, once nothing can be refused."""
    device = choose_device(settings.device)
    console.info(f"Loading {settings.model} ...")
    base = load_base(settings.model, dtype=weights_dtype(maker["precision"]), device="cpu")
    maker = {**maker, **model_marks(base, settings.image_tokens)}
    _refuse_other(settings, known, maker)
    full = settings.image_tokens == ALL
    if settings.adapter is None and not full:
        console.warn("No --adapter is given: these are the tokens of the bare model, nothing was distilled into them.")
    tower = FullTokenTower(base, device) if full else FiveTokenTower(base, settings.adapter, device)
    if settings.overwrite:
        prepare_output(settings.output_dir, resume=False, overwrite=True, known=KNOWN_OUTPUTS)
    about = {"kind": KIND, "format": FORMAT, **maker, "versions": library_versions()}
    return known or about, tower


def _bad(items: list[ListedItem], ledger: Ledger, tally: Tally) -> dict[tuple[str, int], str]:
    """Why pictures cannot be used, in the order of the metadata; one that was stored while it was good stays so."""
    places = {item.item_id: place for place, item in enumerate(items)}
    keys = sorted(tally.bad.keys() - ledger.pictures.keys(), key=lambda key: (places[key[0]], key[1]))
    return {key: tally.bad[key] for key in keys}


def _outcome(
    settings: EmbedSettings, console: Console, items: list[ListedItem], ledger: Ledger, work: Work, tally: Tally
) -> Outcome:
    folder, skipped, stored = settings.output_dir, tally.skipped, ledger.items()
    summary: dict[str, Any] = {
        "output_dir": str(folder),
        "items": len(items),
        "items_without_tokens": sum(item.item_id not in stored for item in items),
        "pictures_embedded": tally.embedded,
        "pictures_unchanged": work.unchanged,
        "pictures_in_store": len(ledger.pictures),
        "tokens_mb": round((folder / TOKENS_FILE).stat().st_size / 1e6, 3),
        **({"pictures_per_s": round(tally.embedded / tally.seconds, 2)} if tally.embedded else {}),
        "time": duration(tally.seconds),
        **skipped.summary(),
    }
    if skipped.count:
        console.warn(f"{skipped.count:,} rows or pictures were left out; {skipped.path} lists them.")
    if not work.pending:
        console.info("Every picture that can be used has its tokens.")
    return Outcome(summary, next_step=f"Next: lavic tune --item_store {shlex.quote(str(folder))}")
