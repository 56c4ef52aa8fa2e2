"""One data set as the run will see it: metadata, descriptions, pictures, and every sample's tokens."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lavic.check.pictures import PictureReport, look_at_pictures
from lavic.console import Console
from lavic.distill.samples import TOO_LONG, collect_samples, pictures_there
from lavic.distill.teacher import NOT_STORED, OTHER_TEXT, TeacherStore
from lavic.errors import InputError
from lavic.formats import NO_TITLE_NOTE, ItemImage
from lavic.model.sequences import Sequence, SequenceBuilder
from lavic.skipped import SkipLog
from lavic.training.loaders import Sample

#: Named in the table, of each kind of trouble.
EXAMPLES = 3
_EMPTY_TEXT = "the text is empty"


@dataclass(frozen=True)
class Place:
    """Where a data set lies.

    Attributes:
        part: ``training`` or ``validation``.
        metadata_flag, images_flag: what to change where it is wrong.
    """

    part: str
    metadata: Path
    images_dir: Path
    metadata_flag: str
    images_flag: str
    max_samples: int | None = None


class NoTokens(SequenceBuilder):
    """Stands in where there is no tokenizer: the pictures are looked for all the same."""

    def __init__(self) -> None:
        pass

    def distill(self, title: str, description: str | None = None) -> Sequence:
        """A sequence of nothing."""
        return Sequence((), 0, ())


class Listed(SkipLog):
    """A skip log in memory that also keeps which picture, or which line, was left out for which reason.

    Args:
        by_line: names a case by its place in the file, even where the key concerned is known.
    """

    def __init__(self, *, by_line: bool = False) -> None:
        super().__init__()
        self.rows: list[tuple[str, str]] = []
        self._by_line = by_line

    def add(self, *, file: str | Path, where: str, key: str = "", reason: str) -> None:
        """Count one case and keep it."""
        super().add(file=file, where=where, key=key, reason=reason)
        self.rows.append((where if self._by_line else key or where, reason))


@dataclass
class DataSet:
    """What a look at a data set found.

    Attributes:
        failure: why the metadata cannot be read, or no further than that; None if they were read to their end (or
            as far as ``max_samples`` goes).
        read: described pictures in the metadata.
        left_out_rows: rows of the metadata that cannot be used, by reason.
        missing, too_long, untaught: (picture name, reason) of described pictures that give no sample.
        unfit: all of them, and those whose picture is broken.
        samples: what the run will use, broken pictures excluded.
        there: names and sizes of all pictures of samples, the broken ones too.
        names: of all described pictures.
        wrong: (picture name, what is wrong) of samples whose tokens are not as they should be.
    """

    place: Place
    failure: InputError | None = None
    read: int = 0
    items: int = 0
    left_out_rows: Counter[str] = field(default_factory=Counter)
    titles_missing: int = 0
    empty: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)
    too_long: list[tuple[str, str]] = field(default_factory=list)
    untaught: list[tuple[str, str]] = field(default_factory=list)
    unfit: list[tuple[str, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    tokenised: bool = False
    pictures: PictureReport = field(default_factory=lambda: PictureReport(0, 0, {}))

    @property
    def lengths(self) -> list[tuple[int, str]]:
        """Tokens and name of each sample; none without a tokenizer."""
        return [(len(sample.sequence.input_ids), sample.name) for sample in self.samples if self.tokenised]

    @property
    def left_out(self) -> int:
        """Rows and pictures that give no sample."""
        return self.left_out_rows.total() + len(self.unfit)

    @property
    def left_out_share(self) -> float:
        """Of all that the metadata describe, as far as they were read."""
        whole = self.left_out + len(self.samples)
        return self.left_out / whole if whole else 0.0

    @property
    def complete(self) -> bool:
        """Whether ``--max_samples`` is reached: then what was left out on the way does not matter.

        The run counts pictures that are there, so those that turn out to be no sample are counted too.
        """
        there = len(self.samples) + len(self.unfit) - len(self.missing)
        return self.place.max_samples is not None and there >= self.place.max_samples


def look_at_metadata(
    place: Place,
    images: Iterator[ItemImage],
    skipped: Listed,
    builder: SequenceBuilder | None,
    console: Console,
    *,
    max_length: int,
    teacher: TeacherStore | None = None,
) -> DataSet:
    """Read one data set's metadata and make its samples; which pictures are there is seen, not yet what is in them.

    Args:
        images: a reader of ``lavic.formats`` on the metadata, which lists in ``skipped``.
        builder: None if the model's tokenizer cannot be had.
        teacher: what the run will learn from.

    Raises:
        InputError: the teacher's probabilities stand at other tokens.
    """
    found = DataSet(place, tokenised=builder is not None)
    sifted = Listed()
    with console.progress(f"Reading {place.part} metadata", None) as bar:
        found.samples = collect_samples(
            _counted(images, found, bar.advance),
            place.images_dir,
            builder or NoTokens(),
            sifted,
            max_length=max_length,
            max_samples=place.max_samples,
            teacher=teacher if builder is not None else None,
        )
    found.there = pictures_there(found.samples)
    found.left_out_rows = Counter(skipped.by_reason)
    found.empty = skipped.by_reason[_EMPTY_TEXT]
    found.titles_missing = skipped.notes[NO_TITLE_NOTE]
    found.unfit = list(sifted.rows)
    for name, reason in sifted.rows:
        untaught = reason in (NOT_STORED, OTHER_TEXT)
        kind = found.untaught if untaught else found.too_long if TOO_LONG in reason else found.missing
        kind.append((name, reason))
    if builder is not None:
        problems = ((sample.name, sequence_problem(sample.sequence, builder)) for sample in found.samples)
        found.wrong = [(name, problem) for name, problem in problems if problem]
    return found


def look_into_pictures(found: DataSet, console: Console, *, seed: int, thorough: bool) -> None:
    """Take out the samples whose pictures are broken; never raises for what is wrong with one."""
    with console.progress(f"Looking at {found.place.part} pictures", len(found.samples)) as bar:
        paths = list(dict.fromkeys(sample.path for sample in found.samples))
        found.pictures = look_at_pictures(paths, seed=seed, thorough=thorough, advance=bar.advance)
    broken = found.pictures.broken
    found.unfit += [(sample.name, broken[sample.path]) for sample in found.samples if sample.path in broken]
    found.samples = [sample for sample in found.samples if sample.path not in broken]


def _counted(images: Iterable[ItemImage], found: DataSet, advance: object) -> Iterator[ItemImage]:
    """The same pictures, counted; a file that breaks off gives those before the place."""
    last_item = ""
    try:
        for image in images:
            found.read += 1
            found.items += image.item_id != last_item
            last_item = image.item_id
            found.names[image.image_name] += 1
            if callable(advance):
                advance(1)
            yield image
    except InputError as error:
        found.failure = error


def sequence_problem(
    sequence: Sequence,
    builder: SequenceBuilder,
    *,
    counts: Iterable[int] | None = None,
    eos: bool = True,
    target: str = "description",
) -> str:
    """What is wrong with a sample's tokens, or ""; said anew, not by the code that built them.

    Args:
        counts: visual tokens of each picture that the prompt must show; None is V, of one.
        eos: whether the end of the target is taught.
        target: what carries loss.
    """
    ids, own = sequence.input_ids, builder.placeholder_ids
    wanted: list[int] = []
    for count in (builder.views,) if counts is None else counts:
        wanted += own if count == builder.views else own[:1] * count
    if [ids[place] for place in sequence.placeholders] != wanted:
        return f"{len(sequence.placeholders)} placeholders instead of {len(wanted)}"
    if sum(token in own for token in ids) != len(wanted):
        return "placeholders stand in the text"
    if eos and ids[-1] != builder.eos_id:
        return "EOS is not the last token"
    if sequence.target_tokens < 1 + eos or sequence.prompt_length <= max(sequence.placeholders, default=-1):
        return f"no token of the {target} carries loss"
    return ""


def spread_of(found: Mapping[str, int | float | str], unit: str = "") -> str:
    """What ``token_statistics`` found, in words; ``unit`` stands behind the median."""
    return (
        f"median {found['median']:,.0f}{unit}, 95 % up to {found['p95']:,}, longest "
        f"{found['longest']:,} ({found['longest_name']})"
    )


def token_statistics(named: list[tuple[int, str]]) -> dict[str, int | float | str]:
    """Median, 95 % and longest of the samples' tokens, and whose the longest is.

    Args:
        named: tokens and name of each.
    """
    if not named:
        return {}
    lengths = sorted(length for length, _ in named)
    longest, name = max(named, key=lambda pair: pair[0])
    return {
        "median": statistics.median(lengths),
        "p95": lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
        "longest": longest,
        "longest_name": name,
    }
