"""One file of conversations as the run will see it: rows, candidates, right items, and every prompt's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Rows
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lavic.check.dataset import Listed, sequence_problem
from lavic.console import Console
from lavic.conversations import Conversation
from lavic.errors import InputError, NothingLeftError
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import Sequence
from lavic.rows import REPEATED_KEY
from lavic.tune.config import TuneSettings
from lavic.tune.conversations import REPEATED, SHORTENED, Catalogue, category_file, conversations_of
from lavic.tune.samples import NO_RIGHT_ITEM, AskedRow, TuneSample, asked_rows, in_order, tune_samples

#: Split -> what the table calls it. The last is what ``lavic evaluate`` will ask.
PARTS = {"train": "training", "valid": "validation", "test": "test"}


class NoPrompts(RecommendationPrompts):
    """Stands in where there is no tokenizer: rows, candidates and right items are counted all the same."""

    def __init__(self) -> None:
        pass

    def fit(self, context: str, candidates: Rows[Candidate]) -> str | None:
        """The context as it is."""
        return context

    def sequence(self, context: str, candidates: Rows[Candidate], answer: str | None, *, eos: bool = True) -> Sequence:
        """A sequence of nothing."""
        return Sequence((), 0, ())


@dataclass
class Split:
    """What a look at a file of conversations found.

    Attributes:
        failure: why it cannot be read, or no further; None if it was read to its end (or as far as ``max_samples``
            goes).
        given: line -> the candidates as they are given, of each row that has some.
        bad: (line, reason) of rows that cannot be used: not parsable, or without candidates.
        double_keys, double_candidates: taken once.
        unanswered, too_long: (line, reason) of conversations that give no sample.
        shortened: samples whose conversation loses its middle.
        samples: what is trained on; ``rows`` what is answered as it is; one of the two is empty.
        answer_tokens: of the longest answer, which carry loss; ``choice_tokens`` of all answers of a row, at most.
        wrong: (name, what is wrong) of samples whose tokens are not as they should be.
    """

    part: str
    path: Path
    max_samples: int | None = None
    failure: InputError | None = None
    given: dict[str, Rows[str]] = field(default_factory=dict)
    bad: list[tuple[str, str]] = field(default_factory=list)
    double_keys: int = 0
    double_candidates: int = 0
    unanswered: list[tuple[str, str]] = field(default_factory=list)
    too_long: list[tuple[str, str]] = field(default_factory=list)
    shortened: int = 0
    samples: list[TuneSample] = field(default_factory=list)
    rows: list[AskedRow] = field(default_factory=list)
    tokenised: bool = False
    answer_tokens: int = 0
    choice_tokens: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)

    @property
    def training(self) -> bool:
        """Whether it is trained on."""
        return self.part == PARTS["train"]

    @property
    def usable(self) -> int:
        """Samples, or rows that are answered."""
        return len(self.samples) or len(self.rows)

    @property
    def read(self) -> int:
        """Lines that were read."""
        return len(self.given) + len(self.bad)

    @property
    def left_out(self) -> int:
        """Lines that give no sample."""
        return len(self.bad) + len(self.unanswered) + len(self.too_long)

    @property
    def complete(self) -> bool:
        """Whether ``--max_samples`` is reached: then what was left out on the way does not matter."""
        return self.max_samples is not None and len(self.samples) >= self.max_samples

    @property
    def lengths(self) -> list[tuple[int, str]]:
        """Tokens of prompt and answer, and what each is called; none without a tokenizer."""
        if not self.tokenised:
            return []
        asked = [(row.length, row.conversation.place) for row in self.rows]
        return [*((sample.length, sample.name) for sample in self.samples), *asked]

    @property
    def candidates(self) -> list[Candidate]:
        """Every line of every prompt's candidates."""
        lists = [*(sample.candidates for sample in self.samples), *(row.candidates for row in self.rows)]
        return [candidate for candidates in lists for candidate in candidates]

    @property
    def put_in(self) -> int:
        """Samples whose right item is not among the candidates as they are given, and takes the place of one."""
        return sum(
            sample.answer not in self.given[sample.name.removesuffix(f", {sample.answer}")] for sample in self.samples
        )

    @property
    def with_right(self) -> int:
        """Rows whose candidates hold a right item: no more can be hit."""
        return sum(not row.conversation.ground_truth.isdisjoint(row.item_ids) for row in self.rows)


def look_at_split(
    split: str, settings: TuneSettings, catalogue: Catalogue, prompts: RecommendationPrompts | None, console: Console
) -> Split:
    """Read one file and make its samples, as the run will.

    Args:
        split: ``train``, ``valid`` or ``test``.
        prompts: None if the model's tokenizer cannot be had.

    Raises:
        ConfigError: the category is not there.
        InputError: the file is not there.
    """
    training, path = split == "train", category_file(settings, split)
    found = Split(PARTS[split], path, settings.max_samples if training else None, tokenised=prompts is not None)
    listed, sifted = Listed(by_line=True), Listed(by_line=True)
    with console.progress(f"Reading {found.part} conversations", None) as bar:
        rows = _kept(conversations_of(path, settings.candidate_type, listed), found, bar.advance)
        with suppress(NothingLeftError):  # no sample is a finding of its own
            _collect(rows, found, settings, catalogue, prompts or NoPrompts(), sifted)
    found.bad = [(line, reason) for line, reason in listed.rows if reason != REPEATED_KEY]
    found.double_keys = listed.by_reason[REPEATED_KEY]
    found.double_candidates = listed.notes[REPEATED]
    found.shortened = sifted.notes[SHORTENED]
    for line, reason in sifted.rows:
        (found.unanswered if reason == NO_RIGHT_ITEM else found.too_long).append((line, reason))
    if prompts is not None:
        with console.progress(f"Looking at {found.part} prompts", found.usable) as bar:
            _look_at_tokens(found, settings, prompts, bar.advance)
    return found


def _collect(
    rows: Iterable[tuple[Conversation, Rows[str]]],
    found: Split,
    settings: TuneSettings,
    catalogue: Catalogue,
    prompts: RecommendationPrompts,
    skipped: Listed,
) -> None:
    """Make the samples to train on, or the rows to be answered.

    Raises:
        NothingLeftError: there are none.
    """
    if not found.training:
        found.rows = asked_rows(rows, catalogue, prompts, path=found.path, skipped=skipped)
        return
    found.samples = tune_samples(
        rows,
        catalogue,
        prompts,
        path=found.path,
        skipped=skipped,
        seed=settings.seed,
        repeat_right_items=settings.repeat_right_items,
        max_samples=settings.max_samples,
        without_choice=settings.published,
    )


def _kept(
    rows: Iterable[tuple[Conversation, Rows[str]]], found: Split, advance: Callable[..., None]
) -> Iterator[tuple[Conversation, Rows[str]]]:
    """The same rows, remembered; a file that breaks off gives those before the place."""
    try:
        for conversation, candidates in rows:
            found.given[conversation.place] = candidates
            advance(1)
            yield conversation, candidates
    except InputError as error:
        found.failure = error


def _look_at_tokens(
    found: Split, settings: TuneSettings, prompts: RecommendationPrompts, advance: Callable[..., None]
) -> None:
    """Look at each sample as the first epoch will train on it, and at each row with its longest answer."""
    for sample in found.samples:
        order = in_order(sample, seed=settings.seed, epoch=0, shuffle=settings.shuffle_candidates)
        sequence = prompts.sequence(sample.context, order, sample.answer, eos=settings.teach_eos)
        found.answer_tokens = max(found.answer_tokens, sequence.target_tokens)
        _judge(found, sample.name, sequence, order, prompts, eos=settings.teach_eos)
        advance(1)
    for row in found.rows:
        sequence = prompts.sequence(row.context, row.candidates, prompts.longest_answer(row.candidates))
        found.choice_tokens = max(found.choice_tokens, len(row.candidates) * sequence.target_tokens)
        _judge(found, row.conversation.place, sequence, row.candidates, prompts, eos=True)
        advance(1)


def _judge(
    found: Split,
    name: str,
    sequence: Sequence,
    candidates: Rows[Candidate],
    prompts: RecommendationPrompts,
    *,
    eos: bool,
) -> None:
    counts = prompts.visual_tokens_of(candidates)
    problem = sequence_problem(sequence, prompts.builder, counts=counts, eos=eos, target="answer")
    if not problem and len(sequence.input_ids) > prompts.max_length:
        problem = f"{len(sequence.input_ids):,} tokens, more than --max_length {prompts.max_length:,}"
    if problem:
        found.wrong.append((name, problem))
