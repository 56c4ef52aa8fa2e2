"""The picture sheet of the demo: pictures, the teacher's and the student's words side by side, the loss curve."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

from lavic.demo.measure import ATTRIBUTES, HEADER, ROWS, Measured, right_attributes, table_cells
from lavic.demo.recommend import section
from lavic.files import atomic_path, write_atomic
from lavic.report import Curve, curve_svg, escape, image_data_url, page
from lavic.toyshop.catalogue import ToyItem
from lavic.toyshop.grammar import wordings_named
from lavic.training.run_view import RunView

_PICTURES = 24
_PNG_PICTURES = 8
#: Size of the words under a picture in points, and how many characters of that size stand below one.
_PNG_FONT, _PNG_CHARACTERS = 8.5, 42
_GREEN, _RED = "#1a7f37", "#c62828"

_STYLE = """
table.rows td, table.rows th { text-align: right; padding: .35em .9em; border-bottom: 1px solid #ddd }
table.rows td:first-child, table.rows th:first-child { text-align: left }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(21em, 1fr)); gap: 1em; margin-top: 1em }
.card { display: flex; gap: .9em; border: 1px solid #ddd; border-radius: .6em; padding: .8em; background: #fff }
.card img { width: 8em; height: 8em; border-radius: .4em; flex: none }
.card p { margin: 0 0 .5em; font-size: .9em; line-height: 1.35 }
.who { color: #666; font-size: .75em; text-transform: uppercase; letter-spacing: .05em }
.right { color: #1a7f37; font-weight: 600 } .wrong { color: #c62828; font-weight: 600; text-decoration: underline }
"""


def write_report(
    folder: Path, items: Rows[ToyItem], rows: Mapping[str, Measured], summary: Mapping[str, Any], curve: RunView
) -> None:
    """Write ``report.html`` (no scripts, nothing from outside) and ``report.png``."""
    write_atomic(folder / "report.html", _html(folder, items, rows, summary, curve))
    _png(folder, items, rows, summary, curve)


def marked(item: ToyItem, text: str) -> str:
    """The text as HTML with the words that name attributes marked right or wrong."""
    right = right_attributes(item, text)
    spans = sorted((start, end, name) for name, (start, end) in wordings_named(text).items())
    pieces, place = [], 0
    for start, end, name in spans:
        if start < place:
            continue
        kind = "right" if right[name] else "wrong"
        pieces += [escape(text[place:start]), f'<span class="{kind}">{escape(text[start:end])}</span>']
        place = end
    return "".join([*pieces, escape(text[place:])])


def _html(
    folder: Path, items: Rows[ToyItem], rows: Mapping[str, Measured], summary: Mapping[str, Any], curve: RunView
) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in table_cells(name, row)) + "</tr>"
        for name, row in rows.items()
    )
    cards = "".join(_card(folder, items[index], rows, index) for index in range(min(_PICTURES, len(items))))
    validations = [(point.step, point.fields["val_loss_with_eos"]) for point in curve.validations]
    curves = [Curve("training loss", curve.losses), Curve("validation loss", validations)]
    return page(
        "Five tokens instead of all",
        f"<p>{summary['held_out_pictures']} held-out pictures; gap closed {summary['gap_closed']:.1%}, gap over "
        f"blind {summary['gap_over_blind']:.1%}; {summary['steps']} steps of {summary['batch_size']} samples, "
        f"{summary['samples_per_s']:.0f} samples/s.</p>"
        f'<table class="rows"><tr>{head}</tr>{body}</table>'
        f"<h2>Loss of the distillation</h2>{curve_svg(curves, x='optimizer step', y='nats per token')}"
        f'{section(summary)}<h2>What they say</h2><div class="cards">{cards}</div>',
        style=_STYLE,
    )


def _card(folder: Path, item: ToyItem, rows: Mapping[str, Measured], index: int) -> str:
    source = image_data_url(folder / "toyshop" / "valid_images" / item.image_name)
    words = "".join(
        f'<div class="who">{who}</div><p>{marked(item, rows[name].descriptions[index])}</p>'
        for name, who in (("teacher", "teacher"), ("after", "student, 5 tokens"))
    )
    return f'<div class="card"><img src="{source}" alt="{escape(item.description)}"><div>{words}</div></div>'


def _png(
    folder: Path, items: Rows[ToyItem], rows: Mapping[str, Measured], summary: Mapping[str, Any], curve: RunView
) -> None:
    """The same as one picture for a README."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    count = min(_PNG_PICTURES, len(items))
    figure = plt.figure(figsize=(14, 9.6), dpi=100)
    parts = figure.add_gridspec(2, 1, height_ratios=(2.6, 0.8), hspace=0.16, top=0.92, bottom=0.07)
    grid = parts[0].subgridspec(2, 4, hspace=0.42, wspace=0.06)
    for index in range(count):
        axes = figure.add_subplot(grid[index // 4, index % 4])
        axes.set_axis_off()
        with Image.open(folder / "toyshop" / "valid_images" / items[index].image_name) as image:
            axes.imshow(image.convert("RGB"))
        for line, (name, who) in enumerate((("teacher", "all"), ("after", "5"))):
            _words(axes, items[index], rows[name].descriptions[index], who, line)
    below = parts[1].subgridspec(1, 2, wspace=0.45)
    _png_curve(figure.add_subplot(below[0]), curve)
    _png_bars(figure.add_subplot(below[1]), rows)
    figure.suptitle(
        f"A product picture in 5 tokens: {summary['gap_closed']:.0%} of the gap to the full-token teacher closed\n"
        "(below each picture: what the teacher names from all image tokens, then the student from 5)",
        fontsize=13,
    )
    with atomic_path(folder / "report.png") as path:
        figure.savefig(path, format="png")
    plt.close(figure)


def _words(axes: Any, item: ToyItem, text: str, who: str, line: int) -> None:
    """One line of attribute words under a picture, each green where right and red where wrong."""
    right = right_attributes(item, text)
    spans = wordings_named(text)
    words = {name: text[slice(*spans[name])] if name in spans else "?" for name in ATTRIBUTES}
    # Smaller where it would run into the next picture's.
    size = _PNG_FONT * min(1.0, _PNG_CHARACTERS / len(" ".join((who, *words.values()))))
    style: dict[str, Any] = {"fontsize": size, "annotation_clip": False}
    label = axes.annotate(who, (-0.16, -0.1 - 0.1 * line), xycoords="axes fraction", color="#888", **style)
    for name, word in words.items():
        colour = _GREEN if right[name] else _RED
        label = axes.annotate(f" {word}", xy=(1, 0), xycoords=label, va="bottom", color=colour, **style)


def _png_curve(axes: Any, curve: RunView) -> None:
    points = curve.losses
    axes.plot([step for step, _ in points], [loss for _, loss in points], color="#3465a4", linewidth=1)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    axes.spines[["top", "right"]].set_visible(False)


def _png_bars(axes: Any, rows: Mapping[str, Measured]) -> None:
    names = list(rows)
    axes.barh([ROWS[name] for name in names], [rows[name].val_loss for name in names], color="#8fb3d9")
    for place, name in enumerate(names):
        axes.text(rows[name].val_loss, place, f" {rows[name].val_loss:.3f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("validation loss, nats per token")
    axes.spines[["top", "right"]].set_visible(False)
