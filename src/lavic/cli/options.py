"""A command's flags, made from the fields of its settings: name, bounds, default and help are written once.

Every flag arrives as text (or None if it was not given) and is checked by the settings, which know the YAML
file too; so a wrong value is answered in the same words wherever it came from.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union

import typer
from pydantic.fields import FieldInfo

from lavic.config import Settings, field_extra
from lavic.errors import ConfigError

CONFIG, JSON = "config", "json"
NO = "no_"


def normalizer(settings_class: type[Settings]) -> Callable[[str], str]:
    """A ``token_normalize_func`` to which ``--batch_size`` is ``--batch-size``, and an alias its field.

    One option, not two beside each other: so the last one on a command line wins.
    """
    names = {plain(alias): plain(name) for alias, name in settings_class.field_names().items()}
    names |= {f"no-{alias}": f"no-{name}" for alias, name in names.items()}
    return lambda token: names.get(plain(token), plain(token))


def plain(token: str) -> str:
    """A name as it is compared: ``_`` and ``-`` are the same."""
    return token.replace("_", "-")


def signature_of(settings_class: type[Settings]) -> inspect.Signature:
    """A signature from which Typer makes an option per field, and ``--config`` and ``--json``."""
    names = set(settings_class.field_names())
    assert not names & {CONFIG, JSON}, "these names belong to the command line"
    parameters: list[inspect.Parameter] = []
    for name, field in settings_class.ordered_fields().items():
        parameters += _switch(name, field) if is_switch(field) else [_valued(name, field)]
    parameters.append(
        _keyword(
            CONFIG,
            str | None,
            typer.Option(
                None,
                "--config",
                metavar="FILE",
                help="YAML file with a `name: value` line per flag; flags given here beat it.",
            ),
        )
    )
    parameters.append(
        _keyword(
            JSON,
            bool,
            typer.Option(False, "--json", help="Print the result as one JSON document."),
        )
    )
    return inspect.Signature(parameters)


def given_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value, of the values that Typer passes to a function with ``signature_of``'s signature.

    Raises:
        ConfigError: a switch and its ``--no_`` form were both given.
    """
    flags = {name: value for name, value in values.items() if value is not None and value != []}
    for name in [name for name in flags if name.startswith(NO) and name.removeprefix(NO) in values]:
        switch = name.removeprefix(NO)
        if flags.pop(name) and flags.setdefault(switch, False):
            raise ConfigError("they exclude each other", where=f"--{switch} and --{name}")
    return flags


def _valued(name: str, field: FieldInfo) -> inspect.Parameter:
    option = typer.Option(
        None,
        f"--{name}",
        metavar=metavar(field),
        help=help_text(field),
        rich_help_panel=field_extra(field, "panel"),
        show_default=False,
        hidden=field_extra(field, "hidden"),
    )
    return _keyword(name, list[str] | None if is_list(field) else str | None, option)


def _switch(name: str, field: FieldInfo) -> list[inspect.Parameter]:
    """``--name`` and ``--no_name``, of which help shows the one that changes something.

    Two options instead of Typer's pair: a pair takes so much of the line that long names are cut off.
    """
    parameters = []
    for each, value in ((name, True), (f"{NO}{name}", False)):
        option = typer.Option(
            None,
            f"--{each}",
            help=help_text(field) if value else f"Do not: {uncapitalised(field.description or '')}",
            metavar="",
            rich_help_panel=field_extra(field, "panel"),
            show_default=False,
            hidden=field_extra(field, "hidden") or value is field.default,
        )
        parameters.append(_keyword(each, bool | None, option))
    return parameters


def uncapitalised(text: str) -> str:
    """A sentence without its capital, unless its first word is a name."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _keyword(name: str, annotation: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def help_text(field: FieldInfo) -> str:
    """The description, and what holds if the flag is not given."""
    text = field.description or ""
    aliases = field_extra(field, "aliases")
    if aliases:
        text += f" Also: {', '.join(f'--{alias}' for alias in aliases)}."
    if field.is_required():
        text += " Required."
    elif field.default not in (None, ()) and not isinstance(field.default, bool):
        text += f" Default: {_short(field.default)}."
    elif field.default is True:
        text += " On by default."
    # Brackets are markup to Rich.
    return text.replace("[", "\\[")


def _short(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def metavar(field: FieldInfo) -> str:
    """What kind of value a flag takes, as ``--help`` shows it."""
    plain = _plain_type(field)
    if typing.get_origin(plain) is Literal:
        return "|".join(str(choice) for choice in typing.get_args(plain))
    return {int: "N", float: "NUMBER", Path: "PATH"}.get(plain, "TEXT")


def _plain_type(field: FieldInfo) -> Any:
    """The field's type without ``| None`` and ``Annotated``."""
    annotation: Any = field.annotation
    if typing.get_origin(annotation) in (Union, UnionType):
        annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
    return typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def is_list(field: FieldInfo) -> bool:
    """Whether the flag may be given again, each time with one more value."""
    return typing.get_origin(_plain_type(field)) is tuple


def is_switch(field: FieldInfo) -> bool:
    """Whether the flag takes no value."""
    return _plain_type(field) is bool
