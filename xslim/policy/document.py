"""Values that come from files: strict pydantic models, read from bounded YAML, with one-line errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, Union, cast, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import ErrorDetails

from xslim.errors import ConfigError

MAX_BYTES = 4 * 2**20  # a preset with tables for 1,000 steps and 100 blocks is below 1 MiB
MAX_DEPTH = 32
MAX_NODES = 200_000
MAX_DIGITS = 100
PLAIN_WORDS = {  # pydantic's words for what a YAML file calls a list and a mapping
    "tuple_type": "input should be a list",
    "model_type": "input should be a mapping of keys",
    "model_attributes_type": "input should be a mapping of keys",
    "dict_type": "input should be a mapping of keys",
}


class _Unwritten:
    """Annotates a key whose default is left out of the data: one that is younger than files and hashes."""


UNWRITTEN = _Unwritten()


class Document(BaseModel):
    """Base of every value that a file holds: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise to_config_error(error, type(self)) from None

    @classmethod
    def parse(cls, data: object, source: str | None = None) -> Self:
        """Build the value from plain data.

        Raises:
            ConfigError: the data does not fit; names the source, the key and what is allowed.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"got {describe(data)}, allowed is a mapping of keys", source=source)
        bad = [key for key in data if not isinstance(key, str)]
        if bad:
            raise ConfigError(f"got the key {bad[0]!r}, allowed are texts", source=source)
        try:
            return cls(**cast("Mapping[str, Any]", data))
        except ConfigError as error:
            raise error.at(source=source) from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the value from a YAML file.

        Raises:
            ConfigError: as `parse`, or the file is missing, too large or no plain YAML.
        """
        return cls.parse(read_yaml(path), source=str(path))

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is None by default, and `UNWRITTEN` defaults; a None that means "off" is written."""
        data: dict[str, Any] = handler(self)
        return {key: value for key, value in data.items() if not self._left_out(key)}

    def _left_out(self, key: str) -> bool:
        field, value = type(self).model_fields[key], getattr(self, key)
        return value == field.default and (value is None or UNWRITTEN in field.metadata)

    def to_data(self) -> dict[str, Any]:
        """Return plain data that `parse` reads back to an equal value."""
        return self.model_dump(mode="json")


def describe(value: object) -> str:
    """Name a value in an error message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a "did you mean" clause, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"did you mean {close[0]!r}? Allowed: {', '.join(names)}"
    return f"allowed: {', '.join(names)}"


def to_config_error(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """Turn pydantic's first complaint into one line with the full key."""
    first = _most_telling(error.errors(include_url=False, include_input=True))
    cause = first.get("ctx", {}).get("error")
    path = [str(part) for part in first["loc"]]
    unknown = first["type"] == "extra_forbidden"
    key = ".".join([*_without_tags(model, path[:-1]), path[-1]] if unknown else _without_tags(model, path))
    if isinstance(cause, ConfigError):
        return cause.at(key=".".join(part for part in (key, cause.key) if part))
    if unknown:
        fields = _fields_at(model, path[:-1])
        told = suggest(path[-1], fields) if fields else "there is nothing to set"
        return ConfigError(f"unknown key; {told}", key=key)
    if first["type"] == "missing":
        return ConfigError("missing; this key is required", key=key)
    if first["type"].startswith("union_tag"):
        tags = sorted(filter(None, map(_tag, _walk(model, path)[0])))
        wanted = first.get("ctx", {}).get("tag")
        problem = "missing" if wanted is None else f"got {wanted!r}"
        return ConfigError(f"{problem}; allowed: {', '.join(tags)}", key=f"{key}.kind")
    message = PLAIN_WORDS.get(first["type"]) or (str(cause) if cause is not None else first["msg"])
    got = first.get("input")
    shown = "" if isinstance(got, BaseModel | Mapping) else f"got {describe(got)}; "
    return ConfigError(f"{shown}{message[0].lower()}{message[1:]}", key=key)


def _most_telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """The first complaint; of a union's arms the one that went deepest, for it fitted best."""
    stem = errors[0]["loc"][:-1]
    arms = [error for error in errors if error["loc"][: len(stem)] == stem]
    best = max(arms, key=_depth)
    if best["type"] == "missing":  # its misspelling, if there is one, tells more
        beside = [e for e in arms if e["type"] == "extra_forbidden" and e["loc"][:-1] == best["loc"][:-1]]
        return beside[0] if beside else best
    return best


def _depth(error: ErrorDetails) -> int:
    cause = error.get("ctx", {}).get("error")
    return len(error["loc"]) + (isinstance(cause, ConfigError) and cause.key != "")


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the document classes that a field's annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple, dict, list):
        return [model for arg in get_args(annotation) for model in _models_in(arg)]
    return []


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return None if kind is None or not isinstance(kind.default, str) else kind.default


def _walk(model: type[BaseModel], path: list[str]) -> tuple[list[type[BaseModel]], list[str]]:
    """Follow a pydantic location; return the models at its end and the path without union tags."""
    models, kept, in_mapping = [model], [], False
    for part in path:
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        tagged = [m for m in models if _tag(m) == part]
        if fields and not in_mapping:
            models = [found for annotation in fields for found in _models_in(annotation)]
            in_mapping = any(get_origin(annotation) is dict for annotation in fields)
        elif in_mapping or not models or part.isdigit():
            in_mapping = False
        else:  # pydantic's name of a union's arm
            models = tagged or models
            continue
        kept.append(part)
    return models, kept


def _without_tags(model: type[BaseModel], path: list[str]) -> list[str]:
    return _walk(model, path)[1]


def _fields_at(model: type[BaseModel], path: list[str]) -> set[str]:
    return {name for found in _walk(model, path)[0] for name in found.model_fields}


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain values only: no aliases, no repeated keys, bounded depth and size."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("anchors and aliases are not allowed; write the value out")
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise ConfigError(f"nested or large beyond {MAX_DEPTH} levels or {MAX_NODES} values")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise ConfigError(f"got a key of kind {key_node.tag!r}, allowed are texts")
            if key in seen:
                raise ConfigError("the key is given twice; keep one", key=str(key))
            seen.add(key)
        return cast("dict[Any, Any]", super().construct_mapping(node, deep=deep))


def _bounded_int(loader: _PlainLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MAX_DIGITS:
        raise ConfigError(f"a number of {len(node.value)} characters; allowed are {MAX_DIGITS}")
    return int(loader.construct_yaml_int(node))


PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_PlainLoader.yaml_constructors = {  # no dates, sets, bytes: they have no equal in JSON
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in PLAIN_TAGS
}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag.rpartition(":")[2] in PLAIN_TAGS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

_PlainLoader.add_constructor("tag:yaml.org,2002:int", _bounded_int)


def parse_yaml(text: str, source: str | None = None) -> object:
    """Parse plain YAML.

    Raises:
        ConfigError: tags, aliases, repeated keys, control characters, or a size beyond the bounds.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except ConfigError as error:
        raise error.at(source=source) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise ConfigError(f"not plain YAML{place}: {problem}", source=source) from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise ConfigError(f"not plain YAML: {describe(str(error))}", source=source) from None


def read_yaml(path: str | Path) -> object:
    """Read a YAML file of plain values.

    Raises:
        ConfigError: the file cannot be read, or `parse_yaml` refuses it.
    """
    source = str(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(f"cannot read: {reason}; check the path", source=source) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes", source=source)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8 text", source=source) from None
    return parse_yaml(text, source)


def dump_yaml(data: object) -> str:
    """Return block-style YAML in the order of the data; lists of plain values on one line."""
    return yaml.dump(data, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=110)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[object]) -> yaml.Node:
    flat = all(not isinstance(item, list | dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_PlainDumper.add_representer(list, _represent_list)
