"""What hosts say about being crawled: robots.txt, X-Robots-Tag, Retry-After.

robots.txt as RFC 9309 has it: the group of this crawler's name, else of ``*``; of the rules that match a path
the longest holds, at a tie the one that allows; ``*`` and a ``$`` at the end are wildcards. Rules and paths are
quoted alike before they are compared (2.2.2): ``/%7Ejoe`` is ``/~joe``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from yarl import URL

# RFC 9309 asks for 500 KiB at least; what follows is not read.
MAX_ROBOTS_BYTES = 512 * 1024
MAX_RULES = 5_000
_FORBIDDING_TAGS = {"noai", "noimageai"}
# Directives with a value behind a colon; any other word before a colon is a crawler's name.
_TAGS_WITH_VALUE = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
_BOT_NAME = re.compile(r"[\w.*-]+")
_NEEDS_NO_QUOTING = re.compile(r"[A-Za-z0-9/._~-]*")


@dataclass(frozen=True)
class Rule:
    """What is allowed or not.

    Attributes:
        parts: what the pattern has before, between and behind its ``*``, quoted as addresses are.
        anchored: whether it ends with ``$``.
    """

    parts: tuple[str, ...]
    anchored: bool
    allow: bool

    @property
    def length(self) -> int:
        """Characters of the pattern: the longest one holds."""
        return sum(map(len, self.parts)) + len(self.parts) - 1 + self.anchored

    def matches(self, path: str) -> bool:
        """Plain search of the parts, one behind another, so no pattern is slow."""
        first, *rest = self.parts
        if not path.startswith(first):
            return False
        if not rest:
            return len(path) == len(first) if self.anchored else True
        at = len(first)
        for part in rest[:-1]:
            found = path.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        if self.anchored:
            return len(path) - len(rest[-1]) >= at and path.endswith(rest[-1])
        return path.find(rest[-1], at) >= 0


@dataclass(frozen=True)
class RobotsRules:
    """One host's rules for this crawler.

    Attributes:
        crawl_delay_s: seconds between two requests that the host asks for; 0 if it says nothing.
    """

    rules: tuple[Rule, ...] = ()
    crawl_delay_s: float = 0.0

    def allows(self, path: str) -> bool:
        """Whether a path with its query, as yarl quotes it, may be fetched."""
        matching = [(rule.length, rule.allow) for rule in self.rules if rule.matches(path)]
        return max(matching, default=(0, True))[1]


def _rule(pattern: str, allow: bool) -> Rule:
    parts, in_query = [], False
    for part in pattern.removesuffix("$").split("*"):
        parts.append(_quoted(part, in_query=in_query))
        in_query = in_query or "?" in part
    return Rule(tuple(parts), pattern.endswith("$"), allow)


def _quoted(text: str, *, in_query: bool) -> str:
    """A piece of a path, or of a query, quoted as it is in an address."""
    if _NEEDS_NO_QUOTING.fullmatch(text):
        return text
    path, mark, query = ("", "", text) if in_query else text.partition("?")
    # Behind /x no piece can be taken for a host ("//a"); a path without a host keeps its dots.
    return URL(f"/x{path}").raw_path.removeprefix("/x") + mark + URL(f"/x?{query}").raw_query_string


def parse_robots(text: str, agent: str) -> RobotsRules:
    """The rules that a robots.txt has for ``agent`` (a name without version)."""
    groups: dict[str, list[tuple[str, bool]]] = {}
    delays: dict[str, float] = {}
    names: list[str] = []
    naming = False
    for line in text.lstrip("\ufeff").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            names = [*names, value.lower()] if naming else [value.lower()]
            naming = True
            groups.setdefault(value.lower(), [])
            continue
        if key in ("allow", "disallow", "crawl-delay"):
            naming = False
        if key in ("allow", "disallow") and value:
            for name in names:
                if len(groups[name]) < MAX_RULES:
                    groups[name].append((value, key == "allow"))
        elif key == "crawl-delay" and re.fullmatch(r"\d{1,6}(\.\d+)?", value):
            delays.update(dict.fromkeys(names, float(value)))
    ours = agent.lower() if agent.lower() in groups else "*"
    rules = tuple(_rule(pattern, allow) for pattern, allow in groups.get(ours, ()))
    return RobotsRules(rules, delays.get(ours, 0.0))


def forbids_ai(tags: Iterable[str], agent: str) -> bool:
    """Whether X-Robots-Tag headers (``noai``, ``otherbot: noai, noindex``) forbid use for AI to ``agent``.

    A name concerns all that follows it in its header, up to the next name.
    """
    for tag in tags:
        concerned = True
        for part in tag.lower().split(","):
            word, colon, rest = (piece.strip() for piece in part.partition(":"))
            if colon and word not in _TAGS_WITH_VALUE and _BOT_NAME.fullmatch(word):
                concerned, word = word in ("*", agent.lower()), rest
            if concerned and word in _FORBIDDING_TAGS:
                return True
    return False


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait (a number or a date), or None if it says nothing usable."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):  # the last: a year or a zone of twenty digits
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
