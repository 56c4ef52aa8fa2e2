"""What hosts say about being crawled: robots.txt, X-Robots-Tag, Retry-After.

robots.txt as RFC 9309 has it: the group of this crawler's name, else of ``*``; of the rules that match a path
the longest holds, at a tie the one that allows; ``*`` and a ``$`` at the end are wildcards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# RFC 9309 asks for 500 KiB at least; what follows is not read.
MAX_ROBOTS_BYTES = 512 * 1024
MAX_RULES = 5_000
_FORBIDDING_TAGS = {"noai", "noimageai"}


@dataclass(frozen=True)
class RobotsRules:
    """One host's rules for this crawler.

    Attributes:
        rules: (pattern, whether it allows).
        crawl_delay_s: seconds between two requests that the host asks for; 0 if it says nothing.
    """

    rules: tuple[tuple[str, bool], ...] = ()
    crawl_delay_s: float = 0.0

    def allows(self, path: str) -> bool:
        """Whether a path with its query may be fetched."""
        best_length, best = -1, True
        for pattern, allow in self.rules:
            if _matches(pattern, path) and (len(pattern) > best_length or (len(pattern) == best_length and allow)):
                best_length, best = len(pattern), allow
        return best


def _matches(pattern: str, path: str) -> bool:
    """``*`` stands for anything, ``$`` at the end for the end; plain search of the parts, so no pattern is slow."""
    anchored = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not rest:
        return len(path) == len(first) if anchored else True
    at = len(first)
    for part in rest[:-1]:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    if anchored:
        return len(path) - len(rest[-1]) >= at and path.endswith(rest[-1])
    return path.find(rest[-1], at) >= 0


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
    return RobotsRules(tuple(groups.get(ours, ())), delays.get(ours, 0.0))


def forbids_ai(tags: Iterable[str], agent: str) -> bool:
    """Whether X-Robots-Tag headers (``noai``, ``otherbot: noai, noindex``) forbid use for AI to ``agent``."""
    for tag in tags:
        words = tag.lower()
        name, colon, rest = words.partition(":")
        if colon and re.fullmatch(r"\s*[\w.*-]+\s*", name) and name.strip() != "unavailable_after":
            if name.strip() not in ("*", agent.lower()):
                continue
            words = rest
        if _FORBIDDING_TAGS & {word.strip() for word in words.split(",")}:
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
    except (ValueError, TypeError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
