"""Settings, the base of every command's configuration: a YAML file and flags become one frozen model.

A setting is written once, as a field with its bounds, its description and its help panel. The command line
makes its flags from the fields (``lavic.cli.options``); a run saves what it used beside its results.
"""

from __future__ import annotations

import difflib
import platform
import re
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

import lavic
from lavic.errors import ConfigError, InputError
from lavic.files import open_regular, output_error, write_atomic, write_json

CONFIG_FILE = "config.yaml"
VERSIONS_FILE = "versions.json"
_NUMBER = re.compile(r"[-+]?[0-9][0-9_.]*(e[-+]?[0-9]+)?", re.IGNORECASE)
# What decides whether two runs can give equal numbers.
VERSIONED_PACKAGES = ("torch", "transformers", "peft", "lightning-fabric")


def says_yes(value: Any) -> bool:
    """Whether a setting of yes or no will be read as yes, however it is spelt; what is neither is refused later."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False


def setting(
    default: Any,
    description: str,
    *,
    panel: str = "Options",
    aliases: Iterable[str] = (),
    saved: bool = True,
    hidden: bool = False,
    **constraints: Any,
) -> Any:
    """A pydantic field with what the command line needs to know of it.

    Args:
        default: the default value; ``...`` makes the setting required.
        description: a sentence for the help, with the unit where there is one.
        panel: heading under which ``--help`` lists the flag.
        aliases: further names, for flags and YAML keys alike (``model_name`` for ``model``).
        saved: False for what concerns one invocation only (``--resume``); ``config.yaml`` leaves it out.
        hidden: True leaves the flag out of ``--help``; it works all the same.
        constraints: pydantic's own: ``ge``, ``gt``, ``le``, ``lt``, ``min_length``, ``pattern``.
    """
    extra: dict[str, Any] = {"panel": panel, "aliases": list(aliases), "saved": saved, "hidden": hidden}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def field_extra(field: FieldInfo, name: str) -> Any:
    """What ``setting`` noted on a field: ``panel``, ``aliases``, ``saved`` or ``hidden``."""
    usual = {"panel": "Options", "aliases": [], "saved": True, "hidden": False}
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return extra.get(name, usual[name])


def accepts_none(field: FieldInfo) -> bool:
    """Whether ``None`` is a value of the field, so that ``--flag none`` means no value."""
    annotation = field.annotation
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return is_union and type(None) in typing.get_args(annotation)


class Settings(BaseModel):
    """Base of all command configurations; see ``load``."""

    # protected_namespaces: "model" and "model_name" are names of ours, as in the published scripts.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    #: The order of the panels; those that are not named come last, as they are written.
    panels: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # `batch_size: yes` in YAML is True, which pydantic would take for 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is not a value of this setting")
        return value

    @classmethod
    def load(cls, config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Self:
        """The configuration of a run: flags beat the YAML file, the file beats the defaults.

        Args:
            config: a YAML file of ``key: value`` lines, or None. Relative paths in it are relative to
                the current folder, like those in flags.
            flags: field name or alias -> value, text or typed; None means that the flag was not given.

        Raises:
            ConfigError: the file cannot be read, a key is unknown, or a value is not allowed.
        """
        names = cls.field_names()
        from_file = _read_yaml(config, names) if config is not None else {}
        from_flags = {
            names[key]: _flag_value(cls.model_fields[names[key]], value)
            for key, value in (flags or {}).items()
            if value is not None
        }
        try:
            return cls.model_validate({**from_file, **from_flags})
        except ValidationError as error:
            raise _as_config_error(error, config, from_file, from_flags) from None

    @classmethod
    def ordered_fields(cls) -> dict[str, FieldInfo]:
        """The fields by panel, for a help in which what belongs together stands together."""

        def place(field: FieldInfo) -> int:
            panel = field_extra(field, "panel")
            return cls.panels.index(panel) if panel in cls.panels else len(cls.panels)

        return dict(sorted(cls.model_fields.items(), key=lambda member: place(member[1])))

    @classmethod
    def field_names(cls) -> dict[str, str]:
        """Every accepted key, aliases included -> the field that it sets."""
        names = {name: name for name in cls.model_fields}
        for name, field in cls.model_fields.items():
            names.update(dict.fromkeys(field_extra(field, "aliases"), name))
        return names

    def save(self, folder: Path) -> None:
        """Write ``config.yaml`` (all settings, good again as ``--config``) and ``versions.json`` to a folder.

        Raises:
            OutputError: the folder or a file in it cannot be written.
        """
        fields = type(self).model_fields
        kept = {key: value for key, value in self.model_dump(mode="json").items() if field_extra(fields[key], "saved")}
        text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, default_flow_style=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from None
        write_atomic(folder / CONFIG_FILE, text)
        write_json(folder / VERSIONS_FILE, versions())


def versions() -> dict[str, str]:
    """Versions that decide a run's numbers, read from package metadata so that nothing heavy is imported."""
    found = {"lavic": lavic.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like a mistyped one, if any is near enough."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _flag_value(field: FieldInfo, value: Any) -> Any:
    """``--max_samples none`` on the command line is what ``max_samples: null`` is in YAML."""
    if isinstance(value, str) and value.lower() == "none" and accepts_none(field):
        return None
    return value


def _read_yaml(path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """The settings in a YAML file by field name; unknown and repeated keys are refused."""
    node = _compose(path)
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError("this is not a list of settings", where=str(path), remedy="Write one `key: value` a line.")
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = f"{path}, line {key_node.start_mark.line + 1}"
        key = _construct(key_node, where)
        name = names.get(str(key).replace("-", "_"))
        if name is None:
            near = nearest(str(key), names)
            remedy = f"Did you mean `{near}`?" if near else "`--help` lists all settings."
            raise ConfigError(f"unknown setting `{key}`", where=where, remedy=remedy)
        if name in values:
            raise ConfigError(f"`{key}` is set a second time", where=where, remedy="Keep one of the two lines.")
        values[name] = _construct(value_node, where)
    return values


def _compose(path: Path) -> yaml.Node | None:
    """The file's YAML tree, whose nodes still know their lines."""
    try:
        with open_regular(path) as stream:
            text = stream.read().decode("utf-8-sig")
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        return node
    except InputError as error:
        raise ConfigError(error.problem, where=f"--config {path}") from None
    except UnicodeDecodeError:
        raise ConfigError("it is not UTF-8 text", where=f"--config {path}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"this is not YAML: {error.problem or error.context}", where=where) from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"this is not YAML: {reason}", where=str(path)) from None


def _construct(node: yaml.Node, where: str) -> Any:
    """A node's value, built by the safe loader only."""
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node, deep=True)
    except (LookupError, AttributeError):
        # PyYAML's own, for a tag that the value does not fit: `!!bool maybe`, `!!timestamp now`.
        raise ConfigError("this value does not fit its tag", where=where) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"this value is not usable: {error}", where=where) from None
    finally:
        loader.dispose()
    if not isinstance(value, Hashable | list | dict):
        raise ConfigError("this value is not usable", where=where)
    return value


def _as_config_error(
    error: ValidationError, config: Path | None, from_file: Mapping[str, Any], from_flags: Mapping[str, Any]
) -> ConfigError:
    """The first of pydantic's complaints as one sentence that names the flag, or the file and key."""
    first, *others = error.errors(include_url=False)
    name = str(first["loc"][0]) if first["loc"] else ""
    if name in from_flags or first["type"] == "missing":
        where = f"--{name}"
    elif name in from_file:
        where = f"{config}, {name}"
    else:
        where = name
    more = {0: "", 1: "One more setting needs a look too."}.get(
        len(others), f"{len(others)} more settings need a look too."
    )
    return ConfigError(
        _complaint(first["type"], first["msg"], first.get("ctx", {}), first.get("input")),
        where=where,
        remedy=more,
    )


def _bound(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def _complaint(kind: str, message: str, context: Mapping[str, Any], value: Any) -> str:
    """Pydantic's error in our words; its own message where we have none."""
    shown = str(value) if not isinstance(value, str) or _NUMBER.fullmatch(value) else repr(value)
    match kind:
        case "missing":
            return "required, but not given"
        case "greater_than_equal":
            return f"{shown} is too small; it must be at least {_bound(context['ge'])}"
        case "greater_than":
            return f"{shown} is too small; it must be more than {_bound(context['gt'])}"
        case "less_than_equal":
            return f"{shown} is too large; it must be at most {_bound(context['le'])}"
        case "less_than":
            return f"{shown} is too large; it must be less than {_bound(context['lt'])}"
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"{shown} is not a whole number"
        case "float_parsing" | "float_type":
            return f"{shown} is not a number"
        case "finite_number":
            return f"{shown} is not a finite number"
        case "bool_parsing" | "bool_type":
            return f"{shown} is neither true nor false"
        case "literal_error":
            return f"{shown} is not one of {context['expected'].replace(chr(39), '')}"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            return f"{shown}: {message[0].lower()}{message[1:]}"
