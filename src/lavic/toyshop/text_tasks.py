"""What the tiny language model practises on text alone: copying, comparing, selecting, choosing.

A captioner cannot answer with one of ten IDs in its prompt. Repetition teaches copying, membership teaches to compare,
selection to look up what was found, and choices put all together. Choosing is learnt only when more than the answer is
asked: at every word of a candidate that names an attribute, whether the candidate still fits what is asked for; at the
line break behind it, its own first free ID token if it is the right one, else a word for no. These labels are read from
a layer in the middle (``text_training.LABEL_LAYER``), so that the layers above can look up what is known there; the
input stays as it is. docs/experiments.md has the figures.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import LlamaTokenizer

from lavic.prompts import DEFAULT_PROMPTS, fill
from lavic.toyshop import grammar
from lavic.toyshop.kinds import KINDS, Look, combinations, draw_look

IGNORE = -100
#: What a single word's comparison counts, against 1 for an answer's token; there are four times as many.
WORD_WEIGHT = 0.5
#: What the answer's first free token counts: it alone tells whether the right candidate was looked up.
FREE_WEIGHT = 10.0
#: The words for a label's yes and no.
YES, NO = "▁is", "▁not"
_ID_CHARACTERS = string.digits + string.ascii_uppercase
_REQUESTS = (
    "I am looking for {}.",
    "Can anyone recommend {}?",
    "My sister wants {}, any idea?",
    "Where can I find {}? Thanks.",
    "Hello all, I need {} for my flat.",
)
_CHATTER = ("Thanks in advance!", "Price does not matter.", "It is a gift.", "I have searched for days.", "")


@dataclass(frozen=True)
class Exercise:
    """One sequence.

    Attributes:
        input_ids: what the model reads, BOS first.
        targets: as long as ``input_ids``; the token to predict *after* each position, or IGNORE.
        labels: as long; what the layer in the middle should know at each position, or IGNORE.
        weights: how much each target or label counts.
        answer: the exact text that a greedy answer must have; empty where there is none.
        prompt_tokens: how many tokens stand before the answer.
    """

    input_ids: list[int]
    targets: list[int]
    labels: list[int]
    weights: list[float]
    answer: str = ""
    prompt_tokens: int = 0


def item_id(rng: random.Random) -> str:
    """A random ID of the published form, ``B0`` and eight more."""
    return "B0" + "".join(rng.choice(_ID_CHARACTERS) for _ in range(8))


def repetition(tokenizer: LlamaTokenizer, rng: random.Random, tokens: int, *, period: int) -> Exercise:
    """Different random tokens in a loop of ``period``; only what has been seen before carries loss.

    Different ones: where a token may stand twice in a loop, what follows it is ambiguous, and copying forms
    late or never.
    """
    chunk = rng.sample(_whole_words(tokenizer), period)
    ids = [tokenizer.bos_token_id, *(chunk * (tokens // period + 1))][: tokens + 1]
    targets = [*ids[1:], IGNORE]
    targets[:period] = [IGNORE] * min(period, len(targets))
    return Exercise(ids, targets, [IGNORE] * len(ids), [1.0] * len(ids))


def membership(tokenizer: LlamaTokenizer, rng: random.Random, tokens: int) -> Exercise:
    """Random tokens, a line break, and tokens half of which stood before it: which did?

    It is what comparing a candidate with a request comes down to, with a label at every token; from choices alone the
    comparison comes late or never.
    """
    asked = rng.randint(6, tokens // 3)
    words = rng.sample(_whole_words(tokenizer), asked + tokens // 2)
    wanted, others = words[:asked], words[asked:]
    shown = [rng.choice(wanted if rng.random() < 0.5 else others) for _ in range(tokens - asked)]
    ids = [tokenizer.bos_token_id, *wanted, tokenizer.convert_tokens_to_ids("\n"), *shown]
    no, yes = tokenizer.convert_tokens_to_ids([NO, YES])
    known = set(wanted)
    labels = [IGNORE] * (asked + 2) + [yes if token in known else no for token in shown]
    return Exercise(ids, [IGNORE] * len(ids), labels, [1.0] * len(ids))


def selection(tokenizer: LlamaTokenizer, rng: random.Random, rows: int) -> Exercise:
    """A choice in small, of random tokens: which row has asked-for tokens only? The answer is the row's own two.

    Rows are as a candidate's: their own tokens, a colon, three others, a line break; with the labels of a choice.
    """
    words = rng.sample(_whole_words(tokenizer), 4 + 26 + 2 * rows)
    asked, others, owns = words[:4], words[4:30], words[30:]
    line_break, colon, no, yes = tokenizer.convert_tokens_to_ids(["\n", ":", NO, YES])
    right = rng.randrange(rows)
    ids = [tokenizer.bos_token_id, *asked, line_break]
    labels = [IGNORE] * len(ids)
    for row in range(rows):
        own, shown = owns[2 * row : 2 * row + 2], rng.sample(asked, 3)
        for place in rng.sample(range(3), 0 if row == right else rng.randint(1, 3)):
            shown[place] = rng.choice(others)
        fits = [set(shown[: place + 1]) <= set(asked) for place in range(3)]
        ids += [*own, colon, *shown, line_break]
        labels += [IGNORE] * 3 + [yes if fit else no for fit in fits] + [own[0] if row == right else no]
    ids.append(colon)
    prompt_tokens = len(ids)
    ids += [*owns[2 * right : 2 * right + 2], tokenizer.eos_token_id]
    targets = [IGNORE] * (prompt_tokens - 1) + [*ids[prompt_tokens:], IGNORE]
    labels += [IGNORE] * (len(ids) - len(labels))
    return Exercise(ids, targets, labels, [1.0] * len(ids), prompt_tokens=prompt_tokens)


def _whole_words(tokenizer: LlamaTokenizer) -> range:
    """Tokens behind <unk> <s> </s> and the bytes."""
    return range(3 + 256, len(tokenizer) - 2)


def _positions(offsets: list[tuple[int, int]], ends: Sequence[int]) -> list[int]:
    """Index of the token that ends at (or first reaches) each character position."""
    found: list[int] = []
    index = 0
    for end in ends:
        while offsets[index][1] < end:
            index += 1
        found.append(index)
    return found


@dataclass(frozen=True)
class _Row:
    """One candidate: its ID, its text, and per attribute word (start, end, does it still fit)."""

    item_id: str
    text: str
    judged: tuple[tuple[int, int, bool], ...] = ()


def _asked(tokenizer: LlamaTokenizer, context: str, rows: list[_Row], right: int) -> Exercise:
    """The recommendation prompt over candidates, with labels at their words, their ends, and the answer."""
    lines = [fill(DEFAULT_PROMPTS.candidate, item_id=row.item_id, title=row.text, visual_tokens="") for row in rows]
    head, tail = fill(DEFAULT_PROMPTS.recommend, context=context, candidates="\0").split("\0")
    prompt = head + "".join(lines) + tail
    answer = rows[right].item_id
    encoding = tokenizer.backend_tokenizer.encode(prompt + answer, add_special_tokens=False)
    ids = [tokenizer.bos_token_id, *encoding.ids, tokenizer.eos_token_id]
    targets, labels = [IGNORE] * len(ids), [IGNORE] * len(ids)
    weights = [1.0] * len(ids)
    no, yes = tokenizer.convert_tokens_to_ids([NO, YES])
    places, fitting = zip(*_judged_places(rows, lines, len(head)), strict=True) if rows[0].judged else ((), ())
    for position, fits in zip(_positions(encoding.offsets, places), fitting, strict=True):
        labels[position + 1] = yes if fits else no  # + 1: BOS
        weights[position + 1] = WORD_WEIGHT

    ends: list[int] = []
    place = len(head)
    for line in lines:
        place += len(line)
        ends.append(place)  # the token that holds the line break
    free = _first_free_place([row.item_id for row in rows])
    for row, position in enumerate(_positions(encoding.offsets, ends)):
        label = tokenizer.convert_tokens_to_ids(rows[row].item_id[free]) if row == right else no
        # A last word may share its token with the line break: the line's label is the one that counts.
        labels[position + 1], weights[position + 1] = label, 1.0

    start = next(index for index, (_, end) in enumerate(encoding.offsets) if end > len(prompt)) + 1
    for position in range(start, len(ids)):
        targets[position - 1] = ids[position]
    weights[start + free - 1] = FREE_WEIGHT
    return Exercise(ids, targets, labels, weights, answer, start)


def _judged_places(rows: list[_Row], lines: list[str], start: int) -> Iterator[tuple[int, bool]]:
    """Where in the prompt each judged word ends, and whether its candidate still fits there."""
    for row, line in zip(rows, lines, strict=True):
        text_start = start + line.index(row.text, len(row.item_id))
        for _, end, fits in row.judged:
            yield text_start + end, fits
        start += len(line)


def _judged_words(look: Look, text: str, wanted: Look, asked: tuple[str, ...]) -> tuple[tuple[int, int, bool], ...]:
    """The attribute words of a text in order, and whether everything asked for fits up to there."""
    spans = []
    for attribute in ("colour", "pattern", "kind", "detail"):
        value = getattr(look, attribute)
        wordings = grammar.PATTERN_WORDS[value] if attribute == "pattern" else (value,)
        place, wording = min((text.find(wording), wording) for wording in wordings if wording in text)
        spans.append((place, place + len(wording), attribute))
    fits, judged = True, []
    for start, end, attribute in sorted(spans):
        fits = fits and (attribute not in asked or getattr(look, attribute) == getattr(wanted, attribute))
        judged.append((start, end, fits))
    return tuple(judged)


def _first_free_place(ids: list[str]) -> int:
    """Length of the beginning that all IDs share."""
    shared = 0
    while shared < min(map(len, ids)) - 1 and len({row_id[shared] for row_id in ids}) == 1:
        shared += 1
    return shared


def _context(request: str, rng: random.Random) -> str:
    lines = [f"<submission>{rng.choice(_REQUESTS).format(request)} {rng.choice(_CHATTER)}</submission>"]
    if rng.random() < 0.3:
        lines.append(f"<comment>{rng.choice(_CHATTER)}</comment>")
    return "\n".join(lines)


def _candidate_looks(rng: random.Random, count: int, alike: bool) -> list[Look]:
    """Distinct products, all of one kind if they are to look alike."""
    kind = rng.choice(list(KINDS)) if alike else None
    pool = [c for c in combinations(held_out=False) if kind is None or c[0] == kind]
    return [draw_look(rng, combination) for combination in rng.sample(pool, count)]


def choice(tokenizer: LlamaTokenizer, rng: random.Random, candidates: int, *, long: bool = False) -> Exercise:
    """Which of the described candidates is asked for? The answer is its whole ID."""
    looks = _candidate_looks(rng, candidates, alike=rng.random() < 0.5)
    right = rng.randrange(candidates)
    wanted, brief = looks[right], rng.random() < 0.3
    request = grammar.phrase(wanted, rng) if brief else grammar.short_description(wanted, rng)
    asked = ("colour", "pattern", "kind") if brief else ("colour", "pattern", "kind", "detail")
    describe = grammar.describe if long else grammar.short_description
    rows = []
    for look in looks:
        text = describe(look, rng)
        rows.append(_Row(item_id(rng), text, _judged_words(look, text, wanted, asked)))
    return _asked(tokenizer, _context(request, rng), rows, right)


def lookup(tokenizer: LlamaTokenizer, rng: random.Random, candidates: int) -> Exercise:
    """Which ID has the title that is asked for?"""
    rows = [_Row(item_id(rng), grammar.title(rng)) for _ in range(candidates)]
    right = rng.randrange(candidates)
    return _asked(tokenizer, _context(f"the {rows[right].text}", rng), rows, right)
