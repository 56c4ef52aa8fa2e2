"""Products of one kind that are easily mistaken for each other: what a conversation's candidates are drawn from."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from lavic.toyshop.items import ToyItem
from lavic.toyshop.kinds import Look

Cell = tuple[str, str]
#: What a product can be asked for by: (colour, pattern), or (colour, pattern, detail).
Asked = tuple[str, ...]
#: Products of one colour and pattern that are offered together before others are looked for.
_TWINS = 2
#: How often a set is drawn before one is taken in which some product shares its colour or pattern with no other.
_TRIES = 8


def asked_of(look: Look, *, with_detail: bool) -> Asked:
    """What a product of a known kind can be asked for by."""
    return (look.colour, look.pattern, look.detail) if with_detail else (look.colour, look.pattern)


class Shelf:
    """All items of one kind, by what they look like."""

    def __init__(self, items: Sequence[ToyItem]) -> None:
        self._by_asked: dict[bool, dict[Asked, list[ToyItem]]] = {}
        for with_detail in (False, True):
            groups: defaultdict[Asked, list[ToyItem]] = defaultdict(list)
            for item in items:
                groups[asked_of(item.look, with_detail=with_detail)].append(item)
            self._by_asked[with_detail] = dict(groups)
        self._details: defaultdict[Cell, list[str]] = defaultdict(list)
        for colour, pattern, detail in self._by_asked[True]:
            self._details[colour, pattern].append(detail)
        self._colours = sorted({colour for colour, _ in self._details})
        self._patterns = sorted({pattern for _, pattern in self._details})
        self._items = len(items)

    def tells_apart(self, *, with_detail: bool) -> int:
        """How many items can be offered of which each could be asked for."""
        return len(self._by_asked[with_detail])

    def fills(self, *, with_detail: bool) -> int:
        """How many can be offered of which at least one could be asked for."""
        return self._items - min(map(len, self._by_asked[with_detail].values())) + 1

    def draw(
        self, rng: random.Random, count: int, *, with_detail: bool, include: Sequence[ToyItem] = ()
    ) -> list[ToyItem]:
        """Items that share colours and patterns with each other, in no order that says anything once shuffled.

        Each differs from each in what can be asked for, unless there are too few such; then some that are asked for in
        the same way are added, of as few looks as possible and none like the first of ``include``.

        Args:
            count: how many, ``include`` among them; fewer come if the shelf has no more.
            include: items to be there, which differ in what can be asked for.
        """
        kept = [asked_of(item.look, with_detail=with_detail) for item in include]
        best: list[Asked] = []
        fewest = count + 1
        for _ in range(_TRIES):
            chosen = self._choose(rng, count, with_detail, kept)
            alone = len(chosen) - sum(_in_company(chosen))
            if alone < fewest:
                best, fewest = chosen, alone
            if alone == 0:
                break
        groups = self._by_asked[with_detail]
        drawn = [*include, *(rng.choice(groups[asked]) for asked in best[len(kept) :])]
        if len(drawn) < count:
            taken = {item.item_id for item in drawn}
            for asked in sorted(groups.keys() - set(kept[:1]), key=lambda asked: (-len(groups[asked]), asked)):
                others = [item for item in groups[asked] if item.item_id not in taken]
                drawn += rng.sample(others, min(len(others), count - len(drawn)))
        return drawn

    def _choose(self, rng: random.Random, count: int, with_detail: bool, kept: Sequence[Asked]) -> list[Asked]:
        """Different things to ask for, ``kept`` first, within a few colours and patterns."""
        cells = self._neighbours(rng, count, with_detail, kept)
        rng.shuffle(cells)
        if not with_detail:
            return [*kept, *(cell for cell in cells if cell not in kept)][:count]
        # Twins come together, so that the detail decides between them; a third of a cell comes last.
        cells.sort(key=lambda cell: -min(_TWINS, len(self._details[cell])))
        chosen = list(kept)
        late: list[Asked] = []
        for cell in cells:
            details = rng.sample(self._details[cell], len(self._details[cell]))
            asked = [(*cell, detail) for detail in details if (*cell, detail) not in kept]
            room = max(0, _TWINS - sum(one[:2] == cell for one in kept))
            chosen += asked[:room]
            late += asked[room:]
            if len(chosen) >= count:
                break
        return [*chosen, *late][:count]

    def _neighbours(self, rng: random.Random, count: int, with_detail: bool, around: Sequence[Asked]) -> list[Cell]:
        """Colours with patterns out of a few of each: as few as hold ``count`` things to ask for."""
        colours = _shuffled(rng, self._colours, first=[asked[0] for asked in around])
        patterns = _shuffled(rng, self._patterns, first=[asked[1] for asked in around])
        rows = columns = room = 0
        cells: list[Cell] = []
        while room < count and (rows, columns) != (len(colours), len(patterns)):
            if columns == len(patterns) or (rows < len(colours) and (rows < columns or rng.random() < 0.4)):
                added = [(colours[rows], pattern) for pattern in patterns[:columns]]
                rows += 1
            else:
                added = [(colour, patterns[columns]) for colour in colours[:rows]]
                columns += 1
            added = [cell for cell in added if cell in self._details]
            cells += added
            room += sum(min(_TWINS, len(self._details[cell])) for cell in added) if with_detail else len(added)
        return cells


def shelves_of(items: Iterable[ToyItem]) -> list[Shelf]:
    """A shelf for each kind, in the order of the kinds' names."""
    by_kind: defaultdict[str, list[ToyItem]] = defaultdict(list)
    for item in items:
        by_kind[item.look.kind].append(item)
    return [Shelf(by_kind[kind]) for kind in sorted(by_kind)]


def in_company(items: Sequence[ToyItem]) -> list[ToyItem]:
    """Those that share their colour with another, and their pattern with another."""
    shares = _in_company([(item.look.colour, item.look.pattern) for item in items])
    return [item for item, share in zip(items, shares, strict=True) if share]


def _in_company(asked: Sequence[Asked]) -> list[bool]:
    colours, patterns = [one[0] for one in asked], [one[1] for one in asked]
    return [
        colours.count(colour) > 1 and patterns.count(pattern) > 1
        for colour, pattern in zip(colours, patterns, strict=True)
    ]


def unmistakable(items: Sequence[ToyItem], *, with_detail: bool) -> list[ToyItem]:
    """Those that no other equals in what can be asked for."""
    asked = [asked_of(item.look, with_detail=with_detail) for item in items]
    counts = Counter(asked)
    return [item for item, what in zip(items, asked, strict=True) if counts[what] == 1]


def _shuffled(rng: random.Random, values: Sequence[str], *, first: Sequence[str]) -> list[str]:
    front = list(dict.fromkeys(first))
    return front + rng.sample([value for value in values if value not in front], len(values) - len(front))
