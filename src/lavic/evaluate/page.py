"""``report.html``: how often each system is right, and some conversations with the candidates' pictures."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

from lavic import report
from lavic.errors import ImageError, InputError
from lavic.evaluate.results import SystemResult
from lavic.files import safe_join
from lavic.images import read_image
from lavic.layout import picture_name
from lavic.tune.samples import AskedRow

#: Pixels of a candidate's picture, for screens of twice the density.
_SIDE = 240
_STYLE = """
article { background: #fff; border: 1px solid #ddd; border-radius: .6em; padding: 1em 1.2em; margin: 1.2em 0 }
.said { max-width: 56em; margin: 0 0 .5em; padding: .5em .9em; border-radius: .8em; background: #f0f2f5;
  white-space: pre-line; overflow-wrap: anywhere; font-size: .95em; max-height: 16em; overflow: auto }
.said.first { background: #e3edf9 }
.candidates { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.6em, 1fr)); gap: .7em; margin-top: .9em }
figure { margin: 0; padding: .45em; border: 2px solid #e4e4e4; border-radius: .5em; font-size: .78em }
figure.right { border-color: #1a7f37; box-shadow: 0 0 0 2px #1a7f3733 }
figure img, .none { width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: .3em; background: #f4f4f4 }
.none { display: grid; place-items: center; color: #777 }
figcaption { margin-top: .3em; overflow-wrap: anywhere; line-height: 1.3 }
.title { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden }
.chosen { display: inline-block; margin: .3em .3em 0 0; padding: 0 .5em; border-radius: 1em; color: #fff }
.hit { background: #1a7f37 } .miss { background: #c62828 } .answer { color: #1a7f37; font-weight: 600 }
@media print { article { break-inside: avoid } }
"""


@dataclass(frozen=True)
class Shown:
    """A conversation as the page shows it.

    Attributes:
        pictures: item ID -> its picture as a data URL, of those that can be read.
        chosen: system -> the ID that it names first; None where that is no candidate.
    """

    row: AskedRow
    pictures: Mapping[str, str]
    chosen: Mapping[str, str | None]


def choose_rows(rows: Rows[AskedRow], count: int, seed: int) -> list[int]:
    """Places of some conversations drawn by lot, of those with a right candidate where there are enough."""
    answerable = [at for at, row in enumerate(rows) if row.conversation.ground_truth & {*row.item_ids}]
    pool = answerable if len(answerable) >= count else range(len(rows))
    return sorted(random.Random(seed).sample(pool, min(count, len(pool))))


def show(row: AskedRow, folders: Rows[Path], chosen: Mapping[str, str | None]) -> Shown:
    """Read the pictures of a row's candidates; one that cannot be read is left out."""
    found = {item_id: _picture(item_id, folders) for item_id in row.item_ids}
    return Shown(row, {item_id: url for item_id, url in found.items() if url is not None}, chosen)


def _picture(item_id: str, folders: Rows[Path]) -> str | None:
    for folder in folders:
        try:
            return report.thumbnail_url(read_image(safe_join(folder, picture_name(item_id, 0))), _SIDE)
        except (ImageError, InputError):
            continue
    return None


def report_page(results: Rows[SystemResult], shown: Iterable[Shown], about: Mapping[str, str]) -> str:
    """The page's HTML; loads nothing from anywhere.

    Args:
        results: of all systems, the judged one first.
        about: what is said of the evaluation, by name.
    """
    first = results[0].measures
    bars = [report.Bar(each.name, *_hit(each)) for each in results]
    facts = ", ".join(f"{report.escape(name)} {report.escape(value)}" for name, value in about.items())
    intro = (
        f"<p>{first.rows:,} conversations; {facts}.</p><h2>HR@1</h2>"
        f"{report.bars_svg(bars, low=first.chance, high=first.ceiling)}"
        "<p>Bars with bootstrap 95 % intervals; dotted: chance, and the share of conversations whose candidates hold a "
        "right item.</p>"
    )
    articles = "".join(map(_article, shown))
    heading = (
        '<h2>Conversations, drawn by lot</h2><p>The <span class="answer">outlined</span> candidate is the right one; '
        "below each, the systems that name it first.</p>"
    )
    return report.page("Recommendations", intro + (heading + articles if articles else ""), style=_STYLE)


def _hit(result: SystemResult) -> tuple[float, float, float]:
    interval = result.measures.values["hr@1"]
    return interval.value, interval.low, interval.high


def _article(shown: Shown) -> str:
    said = "".join(
        f'<p class="said{" first" if number == 0 else ""}">{report.escape(text)}</p>'
        for number, text in enumerate(turns(shown.row.context))
    )
    figures = "".join(_figure(shown, at) for at in range(len(shown.row.candidates)))
    none = [name for name, item_id in shown.chosen.items() if item_id is None]
    missed = f"<p>No candidate named by: {report.escape(', '.join(none))}.</p>" if none else ""
    return f'<article>{said}<div class="candidates">{figures}</div>{missed}</article>\n'


def _figure(shown: Shown, at: int) -> str:
    candidate = shown.row.candidates[at]
    right = candidate.item_id in shown.row.conversation.ground_truth
    name, title = report.escape(candidate.item_id), report.escape(candidate.title)
    url = shown.pictures.get(candidate.item_id)
    picture = '<div class="none">no picture</div>' if url is None else f'<img alt="{name}" src="{url}">'
    marks = "".join(
        f'<span class="chosen {"hit" if right else "miss"}">{report.escape(system)}</span>'
        for system, item_id in shown.chosen.items()
        if item_id == candidate.item_id
    )
    return (
        f'<figure class="{"right" if right else ""}">{picture}<figcaption><span class="title">{title}</span>'
        f"{name}<br>{marks}</figcaption></figure>"
    )


_TAG = re.compile(r"</?(?:submission|comment)>")


def turns(context: str) -> list[str]:
    """What was said, post by post, without the tags of the public format."""
    return [text.strip() for text in _TAG.split(context) if text.strip()]
