"""Shortening a conversation that is too long for the prompt: its start and its latest words stay."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Encoding

#: Stands where something was left out.
CUT = "\n[...]\n"
_END_OF_POST = "</submission>"
_COMMENT = "<comment>"


def shorten(context: str, tokens: int, encode: Callable[[str], Encoding]) -> str:
    """At most about ``tokens`` tokens of a conversation: the start of the submission and the latest comments.

    The submission gets half of the room, or more where the comments do not fill theirs; a text without one is halved.
    The later part starts with a whole comment if one begins in its first half.

    Args:
        encode: reads everything as text (``SequenceBuilder.encode``).
    """
    places = encode(context).offsets
    if len(places) <= tokens:
        return context
    room = tokens - len(encode(CUT).ids)
    if room < 2:
        return ""
    first = room // 2
    if _END_OF_POST in context:
        end_of_post = context.find(_END_OF_POST) + len(_END_OF_POST)
        post = sum(start < end_of_post for start, _ in places)
        first = min(post, max(first, room - (len(places) - post)))
    rest = room - first
    start_of_rest = places[-rest][0] if rest else len(context)
    comment = context.find(_COMMENT, start_of_rest)
    if start_of_rest < comment <= (start_of_rest + len(context)) // 2:
        start_of_rest = comment
    head = context[: places[first - 1][1]] if first else ""
    return head.rstrip() + CUT + context[start_of_rest:].lstrip()
