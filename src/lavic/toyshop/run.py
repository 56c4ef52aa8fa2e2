"""``lavic toyshop``: a catalogue of drawn products in the public data set's format."""

from __future__ import annotations

from dataclasses import asdict

from lavic.console import Console, Outcome
from lavic.layout import distill_command
from lavic.toyshop.config import ToyshopSettings


def run(settings: ToyshopSettings, console: Console) -> Outcome:
    """Draw the catalogue."""
    # Drawing needs numpy and Pillow, which `lavic toyshop --help` must not wait for.
    from lavic.toyshop.catalogue import write_catalogue

    folder = settings.output_dir
    with console.progress("Drawing products", settings.items) as bar:
        counts = write_catalogue(
            folder,
            settings.items,
            settings.seed,
            on_progress=lambda done, total: bar.advance(),
            workers=settings.workers,
            overwrite=settings.overwrite,
            served_at=settings.served_at,
            conversations=settings.conversations,
            test_conversations=settings.test_conversations,
            candidates=settings.candidates,
        )
    settings.save(folder)
    following = distill_command(folder)
    if settings.served_at is not None:
        # It loads aiohttp, which drawing alone does not need.
        from lavic.crawl.addresses import crawl_command

        following = crawl_command(folder, settings.served_at)
    summary = {name: value for name, value in asdict(counts).items() if value is not None}
    return Outcome({"output_dir": str(folder), **summary}, next_step=f"Next: {following}")
