"""What the tiny language model practises on text alone: copying, comparing, carrying, choosing.

A captioner cannot answer with one of ten IDs in its prompt. Repetition teaches copying, membership teaches to compare,
carrying brings a row's own ID to its other words, and choices put all together. Choosing is learnt only when more than
the answer is asked: at every word of a candidate that names an attribute, whether the candidate still fits what is
asked for; at the colon behind its ID, the first token in which its ID differs from the others'; at its line break, that
token again if it is the right one, else a word for no. These labels are read from layers in the middle
(``text_training.LABEL_LAYERS``), so that the layers above can look up what is known there; the input stays as it is.
docs/experiments.md has the figures.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from typing import Literal

from transformers import LlamaTokenizer

from lavic.model.prefix_cache import common_start
from lavic.prompts import DEFAULT_PROMPTS, fill
from lavic.toyshop import grammar
from lavic.toyshop.kinds import KINDS, Look, combinations, draw_look
from lavic.toyshop.requests import CHATTER_OR_NONE, REQUESTS, asked_before, conversation_about, wish_for
from lavic.toyshop.tokenizer import ID_CHARACTERS

IGNORE = -100
#: What a label asks for: does the row fit so far; its own ID; its own ID if it is the right one.
FITS, OWN, RIGHT = "fits", "own", "right"
#: What a token of the answer counts, against 1, if rows of the same beginning can be told apart only by a look-up.
LOOKUP_WEIGHT = 3.0
#: The words for a label's yes and no.
YES, NO = "▁is", "▁not"
#: How often a wish is told in turns, and how often another one was told before.
_IN_TURNS, _CHANGED = 0.4, 0.45
#: Of lists of near misses in which the detail is asked for: how many at most differ from the right one in nothing else.
_TWINS = 3
#: How candidates are worded: one way; two ways; with the detail; in three sentences.
Wording = Literal["plain", "phrase", "short", "long"]

Combination = tuple[str, str, str]


@dataclass(frozen=True)
class Exercise:
    """One sequence.

    Attributes:
        input_ids: what the model reads, BOS first.
        targets: as long as ``input_ids``; the token to predict *after* each position, or IGNORE.
        weights: how much each target counts.
        labels: by what they ask for (``FITS``, ``OWN``, ``RIGHT``), as long as ``input_ids``; what a layer in the
            middle should know at each position, or IGNORE.
        answer: the exact text that a greedy answer must have; empty where there is none.
        prompt_tokens: how many tokens stand before the answer.
    """

    input_ids: list[int]
    targets: list[int]
    weights: list[float]
    labels: dict[str, list[int]] = field(default_factory=dict)
    answer: str = ""
    prompt_tokens: int = 0


def item_id(rng: random.Random) -> str:
    """A random ID of the published form, ``B0`` and eight more."""
    return "B0" + "".join(rng.choice(ID_CHARACTERS) for _ in range(8))


def repetition(tokenizer: LlamaTokenizer, rng: random.Random, tokens: int, *, period: int) -> Exercise:
    """Different random tokens in a loop of ``period``; only what has been seen before carries loss.

    Different ones: where a token may stand twice in a loop, what follows it is ambiguous, and copying forms
    late or never.
    """
    chunk = rng.sample(_whole_words(tokenizer), period)
    ids = [tokenizer.bos_token_id, *(chunk * (tokens // period + 1))][: tokens + 1]
    targets = [*ids[1:], IGNORE]
    targets[:period] = [IGNORE] * min(period, len(targets))
    return Exercise(ids, targets, [1.0] * len(ids))


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
    return Exercise(ids, [IGNORE] * len(ids), [1.0] * len(ids), {FITS: labels})


def carrying(tokenizer: LlamaTokenizer, rng: random.Random, rows: int, *, at_end: bool) -> Exercise:
    """Rows of an ID, a colon, some tokens and a line break: from the colon on, which ID does the row have?

    Asked for is the token behind those that all IDs begin with. A row is known to be the right one when its words are
    read, and its ID stands in front of them: no look-up from the answer can find it unless the words carry it along.

    Args:
        at_end: ask it of the last layer, where it is learnt quickly, and not of the one in the middle.
    """
    colon, line_break = tokenizer.convert_tokens_to_ids([":", "\n"])
    ids = [tokenizer.bos_token_id, *rng.choices(_whole_words(tokenizer), k=rng.randint(0, 8))]
    asked = [IGNORE] * len(ids)
    for _ in range(rows):
        own = tokens_of_id(tokenizer, item_id(rng))
        words = [colon, *rng.choices(_whole_words(tokenizer), k=rng.randint(1, 5))]
        ids += [*own, *words, line_break]
        asked += [*[IGNORE] * len(own), *[own[1]] * len(words), IGNORE]
    nothing = [IGNORE] * len(ids)
    return Exercise(ids, asked if at_end else nothing, [1.0] * len(ids), {} if at_end else {OWN: asked})


def _whole_words(tokenizer: LlamaTokenizer) -> range:
    """Tokens behind <unk> <s> </s> and the bytes."""
    return range(3 + 256, len(tokenizer) - 2)


def tokens_of_id(tokenizer: LlamaTokenizer, identity: str) -> list[int]:
    """The tokens of an ID that stands directly behind something, as it does in rows and answers."""
    encoding = tokenizer.backend_tokenizer.encode(f":{identity}", add_special_tokens=False)
    return [token for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start > 0]


@dataclass(frozen=True)
class _Row:
    """One candidate: its ID, its text, and per attribute word (start, end, does it still fit)."""

    item_id: str
    text: str
    judged: tuple[tuple[int, int, bool], ...] = ()


def _asked(tokenizer: LlamaTokenizer, context: str, rows: list[_Row], right: int) -> Exercise:
    """The recommendation prompt over candidates, with labels at their colons, words and ends, and the answer."""
    lines = [fill(DEFAULT_PROMPTS.candidate, item_id=row.item_id, title=row.text, visual_tokens="") for row in rows]
    head, tail = fill(DEFAULT_PROMPTS.recommend, context=context, candidates="\0").split("\0")
    prompt = head + "".join(lines) + tail
    encoding = tokenizer.backend_tokenizer.encode(prompt + rows[right].item_id, add_special_tokens=False)
    ends = [end for _, end in encoding.offsets]
    ids = [tokenizer.bos_token_id, *encoding.ids, tokenizer.eos_token_id]

    def at(character: int) -> int:
        """Which token (BOS counted) ends at this character of the prompt, or first reaches it."""
        return bisect_left(ends, character) + 1

    owns = [tokens_of_id(tokenizer, row.item_id) for row in rows]
    free = first_free(owns)
    no, yes = tokenizer.convert_tokens_to_ids([NO, YES])
    labels = {name: [IGNORE] * len(ids) for name in (FITS, OWN, RIGHT)}
    starts = accumulate(map(len, lines), initial=len(head))
    for number, (row, line, own, start) in enumerate(zip(rows, lines, owns, starts, strict=False)):
        labels[OWN][at(start + len(row.item_id) + 1)] = own[free]
        labels[RIGHT][at(start + len(line))] = own[free] if number == right else no
        text_start = start + line.index(row.text, len(row.item_id))
        for _, end, fits in row.judged:
            labels[FITS][at(text_start + end)] = yes if fits else no

    first = bisect_right(ends, len(prompt)) + 1
    targets = [*[IGNORE] * (first - 1), *ids[first:], IGNORE]
    return Exercise(ids, targets, answer_weights(len(ids), first, owns, right), labels, rows[right].item_id, first)


def first_free(owns: list[list[int]]) -> int:
    """Behind how many tokens these IDs differ; a token is left even of the shortest, for the labels to ask for."""
    return common_start(owns, min(map(len, owns)) - 1)


def answer_weights(length: int, prompt_tokens: int, owns: list[list[int]], right: int) -> list[float]:
    """What each target counts: more for a token of the answer where only a look-up tells the rows apart."""
    weights = [1.0] * length
    for place in range(first_free(owns), len(owns[right])):
        if any(own[:place] == owns[right][:place] for number, own in enumerate(owns) if number != right):
            weights[prompt_tokens + place - 1] = LOOKUP_WEIGHT
    return weights


def _judged_words(look: Look, text: str, wanted: Look, asked: tuple[str, ...]) -> tuple[tuple[int, int, bool], ...]:
    """The attribute words of a text in order, and whether everything asked for fits up to there."""
    spans = []
    for attribute in ("colour", "pattern", "kind", "detail"):
        value = getattr(look, attribute)
        wordings = grammar.PATTERN_WORDS[value] if attribute == "pattern" else (value,)
        places = [(text.find(wording), wording) for wording in wordings if wording in text]
        if places:  # a phrase names no detail
            place, wording = min(places)
            spans.append((place, place + len(wording), attribute))
    fits, judged = True, []
    for start, end, attribute in sorted(spans):
        fits = fits and (attribute not in asked or getattr(look, attribute) == getattr(wanted, attribute))
        judged.append((start, end, fits))
    return tuple(judged)


def context_of(request: str, rng: random.Random) -> str:
    """A conversation in which this is asked for."""
    lines = [f"<submission>{rng.choice(REQUESTS).format(request)} {rng.choice(CHATTER_OR_NONE)}</submission>"]
    if rng.random() < 0.3:
        lines.append(f"<comment>{rng.choice(CHATTER_OR_NONE)}</comment>")
    return "\n".join(lines)


def wish_context(looks: Sequence[Look], right: int, rng: random.Random, *, with_detail: bool) -> str:
    """A conversation that ends in a wish for the right one of these.

    The second wording of a pattern is learnt more slowly: pictures are taught as "dotted", never as "with dots". So it
    comes in some 60 % of these conversations, in 35 % of the shop's.
    """
    before = asked_before(looks, right, rng) if rng.random() < _CHANGED else None
    first_wish = None if before is None else wish_for(looks[before], with_detail=with_detail)
    wish, in_turns = wish_for(looks[right], with_detail=with_detail), rng.random() < _IN_TURNS
    context = conversation_about(wish, first_wish, rng, in_turns=in_turns)
    if grammar.PATTERN_WORDS[wish.pattern][1] in context:
        return context
    return conversation_about(wish, first_wish, rng, in_turns=in_turns)


@cache
def _near_misses() -> dict[Combination, list[Combination]]:
    """For each (kind, colour, pattern) of training those that have two of the three."""
    known = combinations(held_out=False)
    return {one: [other for other in known if sum(map(str.__eq__, one, other)) == 2] for one in known}


def _candidate_looks(rng: random.Random, count: int, right: int, *, with_detail: bool) -> list[Look]:
    """Distinct products: any ones, of one kind, or near misses of the right one.

    Without near misses the first word that tells a candidate from the request tells nearly all of them apart, and the
    others are hardly compared. Some differ in nothing but the detail, if it is asked for.
    """
    pool = combinations(held_out=False)
    drawn = rng.random()
    if drawn < 1 / 3:
        chosen = rng.sample(pool, count)
    elif drawn < 2 / 3:
        kind = rng.choice(list(KINDS))
        chosen = rng.sample([combination for combination in pool if combination[0] == kind], count)
    else:
        wanted = rng.choice(pool)
        near = _near_misses()[wanted]
        chosen = rng.sample(near, min(count - 1, len(near)))
        others = [combination for combination in pool if combination != wanted and combination not in chosen]
        chosen += rng.sample(others, count - 1 - len(chosen))
        chosen.insert(right, wanted)
        if with_detail:
            return _with_twins(rng, [draw_look(rng, combination) for combination in chosen], right)
    return [draw_look(rng, combination) for combination in chosen]


def _with_twins(rng: random.Random, looks: list[Look], right: int) -> list[Look]:
    """Some of the others as the right one is but for the detail, each with another one."""
    wanted = looks[right]
    details = [detail for detail in KINDS[wanted.kind].details if detail != wanted.detail]
    places = [place for place in range(len(looks)) if place != right]
    twins = dict(zip(rng.sample(places, min(_TWINS, len(places))), rng.sample(details, len(details)), strict=False))
    return [replace(wanted, detail=twins[place]) if place in twins else look for place, look in enumerate(looks)]


def choice(tokenizer: LlamaTokenizer, rng: random.Random, candidates: int, wording: Wording = "short") -> Exercise:
    """Which of the described candidates is asked for? The answer is its whole ID."""
    right = rng.randrange(candidates)
    # Descriptions are asked for without their detail now and then.
    with_detail = wording in ("short", "long") and rng.random() >= 0.3
    looks = _candidate_looks(rng, candidates, right, with_detail=with_detail)
    asked = ("colour", "pattern", "kind", "detail") if with_detail else ("colour", "pattern", "kind")
    rows = []
    for look in looks:
        text = _described(look, wording, rng)
        rows.append(_Row(item_id(rng), text, _judged_words(look, text, looks[right], asked)))
    if wording == "plain":
        context = context_of(grammar.plain_phrase(looks[right]), rng)
    else:
        context = wish_context(looks, right, rng, with_detail=with_detail)
    return _asked(tokenizer, context, rows, right)


def _described(look: Look, wording: Wording, rng: random.Random) -> str:
    if wording == "plain":
        return grammar.plain_phrase(look)
    return {"phrase": grammar.phrase, "short": grammar.short_description, "long": grammar.describe}[wording](look, rng)


def lookup(tokenizer: LlamaTokenizer, rng: random.Random, candidates: int) -> Exercise:
    """Which ID has the title that is asked for?"""
    rows = [_Row(item_id(rng), grammar.title(rng)) for _ in range(candidates)]
    right = rng.randrange(candidates)
    return _asked(tokenizer, context_of(f"the {rows[right].text}", rng), rows, right)
