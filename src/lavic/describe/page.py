"""``lavic describe --adapter DIR``: a page with the picture, the teacher's text and the one from five tokens."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lavic import report
from lavic.console import Console, Outcome
from lavic.describe.config import DescribeSettings
from lavic.describe.sides import Side, resolve_sides
from lavic.describe.teacher import Teacher
from lavic.errors import ImageError, InputError, NothingLeftError, OutputError
from lavic.files import open_regular, output_error, safe_join, write_atomic
from lavic.formats import ItemImage, read_train_metadata, read_valid_metadata
from lavic.images import read_image
from lavic.model.adapters import load_vision_adapter, read_lora_settings
from lavic.model.generation import generate_descriptions
from lavic.model.load import BaseModel
from lavic.model.sequences import SequenceBuilder
from lavic.model.views import cut_views
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import Prompts, load_prompts
from lavic.skipped import SkipLog

_SIDE = 480  # pixels of a picture on the page, for screens of twice the density
# In the page's head; by it a page is known that may be replaced.
_TITLE = "The teacher's descriptions and the adapter's"
_HEAD_BYTES = 1024
_STYLE = """
article { display: grid; grid-template-columns: 15em 1fr 1fr; gap: .8em 1.6em; background: #fff;
  border: 1px solid #ddd; border-radius: .5em; padding: 1em 1.2em 1.2em; margin: 1.2em 0; align-items: start }
article h2 { grid-column: 1 / -1; margin: 0; font-size: 1.1em; overflow-wrap: anywhere }
article h2 span { color: #767676; font-weight: 400; font-size: .8em; margin-left: .4em }
article img { width: 100%; max-height: 20em; object-fit: contain; border-radius: .3em }
article div { border-left: 3px solid #ddd; padding-left: .9em; overflow-wrap: anywhere; white-space: pre-line }
h3 { margin: 0 0 .3em; font-size: .85em; color: #5a5a5a; font-weight: 600 } p { margin: 0 0 .5em }
mark { color: inherit; border-radius: .15em; padding: 0 .1em }
mark.new { background: #ffe0b0 } mark.lost { background: #d9e6f7 }
@media (max-width: 52em) { article { grid-template-columns: 1fr } article img { max-width: 20em } }
@media print { article { break-inside: avoid } }
"""


@dataclass(frozen=True)
class Compared:
    """One picture with both texts."""

    image: ItemImage
    picture: Image.Image
    five_tokens: str


def write_comparison(settings: DescribeSettings, console: Console) -> Outcome:
    """Draw described pictures by lot, let the adapter describe them, and write the page.

    Raises:
        AdapterError: the adapter cannot be used with the model.
        NothingLeftError: no described picture can be read.
        OutputError: the page cannot be written.
    """
    assert settings.adapter is not None
    # What is wrong with the folders is told before the model is loaded.
    read_lora_settings(settings.adapter)
    _make_room(settings.page, (settings.train_data, settings.val_data, settings.prompts))
    skipped = SkipLog()
    side, chosen = _choose(settings, skipped)
    base = Teacher(settings, console).base()
    load_vision_adapter(base.model, settings.adapter).to(base.model.device)
    texts: list[str] = []
    with console.progress("Describing from five tokens", len(chosen)) as bar:
        for at in range(0, len(chosen), settings.batch_size):
            part = chosen[at : at + settings.batch_size]
            texts += _describe(base, load_prompts(settings.prompts), part, settings.max_new_tokens)
            bar.advance(len(part))
    rows = [Compared(image, picture, text) for (image, picture), text in zip(chosen, texts, strict=True)]
    page = comparison_page(
        rows, model=base.name, adapter=settings.adapter.name, data=side.source.name, views=base.family.views
    )
    write_atomic(settings.page, page)
    shared = sum(word_overlap(row.image.description, row.five_tokens) for row in rows) / len(rows)
    summary = {"pictures": len(rows), "from": str(side.source), "shared_words": round(shared, 3), **skipped.summary()}
    return Outcome({"page": str(settings.page), **summary}, next_step=f"Open {settings.page} in a browser.")


def _make_room(page: Path, inputs: Rows[Path | None]) -> None:
    """See that the page can be written and replaces no more than an earlier one."""
    where = f"--page {page}"
    if page.is_dir():
        raise OutputError("this is a folder", where=where, remedy="Name a file in it.")
    if page.resolve() in (path.resolve() for path in inputs if path is not None):
        raise OutputError("this is a file that is read", where=where, remedy="Name another file.")
    if page.exists() and not _is_page(page):
        problem = "the file is no page of `lavic describe`, so it is not replaced"
        raise OutputError(problem, where=where, remedy="Name another file.")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(page.parent, error) from error


def _is_page(path: Path) -> bool:
    """Whether a file begins as a page that ``comparison_page`` made."""
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except InputError:
        return False
    return f"<title>{report.escape(_TITLE)}</title>".encode() in head


def _choose(settings: DescribeSettings, skipped: SkipLog) -> tuple[Side, list[tuple[ItemImage, Image.Image]]]:
    """Described pictures by lot, in file order: of the validation set, which the adapter was not trained on, if any."""
    for side in reversed(resolve_sides(settings)):
        read = read_train_metadata if side.name == "train" else read_valid_metadata
        described = list(read(side.source, skipped))
        order = random.Random(settings.seed).sample(range(len(described)), len(described))
        chosen: dict[int, Image.Image] = {}
        for place in order:
            if len(chosen) == settings.sample:
                break
            image = described[place]
            try:
                chosen[place] = read_image(safe_join(side.images_dir, image.image_name))
            except (ImageError, InputError) as error:
                skipped.add(file=side.images_dir, where=image.where, key=image.image_name, reason=error.problem)
        if chosen:
            return side, [(described[place], chosen[place]) for place in sorted(chosen)]
    raise NothingLeftError(
        "no described picture can be read",
        where=str(settings.val_data),
        remedy="Describe them first: the same command without --adapter.",
    )


@torch.no_grad()
def _describe(
    base: BaseModel, prompts: Prompts, part: Rows[tuple[ItemImage, Image.Image]], max_new_tokens: int
) -> list[str]:
    builder = SequenceBuilder(base.tokenizer, prompts, base.family.views)
    asked = builder.collate([builder.distill(image.title) for image, _ in part], side="left")
    views = torch.stack(
        [torch.from_numpy(cut_views(picture, base.view_size, base.family.views)) for _, picture in part]
    )
    device = base.model.device
    return generate_descriptions(
        FiveTokenModel(base), base.tokenizer, asked.to(device), views.to(device), max_new_tokens=max_new_tokens
    )


def comparison_page(rows: Rows[Compared], *, model: str, adapter: str, data: str, views: int) -> str:
    """The page's HTML; loads nothing from anywhere.

    Args:
        model, adapter, data: names of the base model, of the adapter and of the file with the teacher's texts.
        views: how many visual tokens the adapter's texts come from.
    """
    seen = f"{views} visual tokens" if views > 1 else "1 visual token"
    intro = (
        f"<p>{len(rows)} pictures of {report.escape(data)}, drawn by lot. Left the teacher's text, as it stands in "
        f"that file; right what {report.escape(model)} with the adapter {report.escape(adapter)} says "
        f"from {seen}.</p>"
        '<p><mark class="lost">Blue</mark>: words that only the teacher uses. '
        '<mark class="new">Orange</mark>: words that only the adapter uses.</p>'
    )
    articles = "".join(_article(row, seen) for row in rows)
    return report.page(_TITLE, intro + articles, style=_STYLE)


def _article(row: Compared, seen: str) -> str:
    name, teacher = report.escape(row.image.image_name), row.image.description
    return (
        f"<article><h2>{report.escape(row.image.title)} <span>{name}</span></h2>"
        f'<img alt="{name}" src="{report.thumbnail_url(row.picture, _SIDE)}">'
        f"<div><h3>Teacher</h3><p>{_marked(teacher, row.five_tokens, 'lost')}</p></div>"
        f"<div><h3>Adapter, {seen}</h3><p>{_marked(row.five_tokens, teacher, 'new')}</p></div></article>\n"
    )


_WORD = re.compile(r"\w+")


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


def _marked(text: str, other: str, kind: str) -> str:
    """The text with the words that the other one does not use marked, neighbours together."""
    known = _words(other)
    spans: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        if match[0].casefold() in known:
            continue
        if spans and text[spans[-1][1] : match.start()] == " ":
            spans[-1] = (spans[-1][0], match.end())
        else:
            spans.append(match.span())
    parts, done = list[str](), 0
    for start, end in spans:
        parts += [report.escape(text[done:start]), f'<mark class="{kind}">{report.escape(text[start:end])}</mark>']
        done = end
    return "".join([*parts, report.escape(text[done:])])


def word_overlap(teacher: str, student: str) -> float:
    """Share of the teacher's words that the student uses too."""
    words = _words(teacher)
    return len(words & _words(student)) / len(words) if words else 0.0
