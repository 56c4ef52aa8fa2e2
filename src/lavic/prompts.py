"""Every prompt wording and every placeholder; no other file holds prompt text.

The wordings are lavic's own. ``--prompts FILE`` replaces any of them by name (a YAML file of the
names in ``Prompts``). Names in braces are replaced as they stand; other braces are ordinary text.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

from lavic.errors import ConfigError, InputError
from lavic.files import open_regular

#: Stands where the visual tokens go; the sequence builder turns it into V placeholders.
VISUAL_TOKENS = "{visual_tokens}"


def placeholder_names(views: int) -> tuple[str, ...]:
    """``<ItemImageEmb1>`` ... one per view, global view first (paper, section 4.1)."""
    return tuple(f"<ItemImageEmb{view}>" for view in range(1, views + 1))


@dataclass(frozen=True)
class Prompts:
    """The wordings by name.

    distill: stage 1, knows ``{title}`` and ``{visual_tokens}``; the description follows directly.
    describe: what the full-token teacher is asked, through its own chat template.
    recommend: stage 2, knows ``{context}`` and ``{candidates}``; the item ID follows directly.
    candidate: one line of ``{candidates}``; knows ``{item_id}``, ``{title}``, ``{visual_tokens}``.
    """

    distill: str = (
        "You look closely at products and say what you see.\n"
        "Describe this product from its picture alone: kind, colour, pattern, material, shape and details. "
        "Do not mention its title.\n"
        "This product's title is: {title}\n"
        "{visual_tokens}\n"
        "Assistant:"
    )
    describe: str = (
        "Describe the product in this picture: kind, colour, pattern, material, shape, details and style. "
        "Say only what can be seen: no title, no guesses."
    )
    recommend: str = (
        "You recommend products. Read the conversation and answer with the ID of the one candidate that fits.\n"
        "Conversation:\n"
        "{context}\n"
        "Candidates:\n"
        "{candidates}"
        "Assistant:"
    )
    candidate: str = "{item_id}: {title}{visual_tokens}\n"


DEFAULT_PROMPTS = Prompts()

_KNOWN_NAMES = {
    "distill": ("{title}", VISUAL_TOKENS),
    "describe": (),
    "recommend": ("{context}", "{candidates}"),
    "candidate": ("{item_id}", "{title}", VISUAL_TOKENS),
}


def fill(template: str, **values: str) -> str:
    """Replace the given names in one pass: a value that spells ``{title}`` stays text, no formatting runs."""
    pieces: list[str] = []
    rest = template
    while rest:
        places = [(rest.find("{" + name + "}"), name) for name in values if "{" + name + "}" in rest]
        if not places:
            break
        start, name = min(places)
        pieces += [rest[:start], values[name]]
        rest = rest[start + len(name) + 2 :]
    return "".join([*pieces, rest])


def load_prompts(path: Path | None) -> Prompts:
    """The default wordings with those of a YAML file in their place.

    Raises:
        ConfigError: the file cannot be read, a name is unknown, or a wording lacks a needed name.
    """
    if path is None:
        return DEFAULT_PROMPTS
    try:
        with open_regular(path) as stream:
            loaded = yaml.safe_load(stream.read().decode("utf-8"))
    except InputError as error:
        raise ConfigError(error.problem, where=f"--prompts {path}") from None
    # PyYAML's own, then what it lets through: of the date 2024-13-45, `!!bool maybe`, `!!timestamp now`, "[[[[...".
    except (OSError, yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ConfigError(f"cannot be read as YAML ({reason})", where=f"--prompts {path}") from None
    if not isinstance(loaded, dict):
        raise ConfigError("must hold names and wordings", where=f"--prompts {path}")
    known = [field.name for field in fields(Prompts)]
    for name, wording in loaded.items():
        if name not in known:
            raise ConfigError(
                f"no prompt is called {name!r}",
                where=f"--prompts {path}",
                remedy=f"Known: {', '.join(known)}.",
            )
        if not isinstance(wording, str):
            raise ConfigError("the wording must be text", where=f"--prompts {path}, {name}")
        for needed in _KNOWN_NAMES[name]:
            if wording.count(needed) != 1:
                raise ConfigError(f"must contain {needed} exactly once", where=f"--prompts {path}, {name}")
    prompts = replace(DEFAULT_PROMPTS, **loaded)
    if prompts.recommend.endswith("{candidates}") and prompts.candidate.endswith(VISUAL_TOKENS):
        # Scoring starts from the prompt's last token, which must be one of the vocabulary.
        raise ConfigError(
            f"the prompt ends in {VISUAL_TOKENS}, directly in front of the answer",
            where=f"--prompts {path}, recommend",
            remedy="Let a word or a line break follow, in candidate or in recommend.",
        )
    return prompts
