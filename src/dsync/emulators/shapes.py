"""Shapes of request bodies: which keys, of which type, and what is wrong with a given body."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Field", "Flag", "Int", "ListOf", "Object", "Problem", "Shape", "Text", "problems"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a body; `check` names the rule, so that a switch can move it."""

    check: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    choices: tuple[str, ...] = ()
    """The only values; empty = any text."""


@dataclass(frozen=True, slots=True)
class Int:
    pass


@dataclass(frozen=True, slots=True)
class Flag:
    pass


@dataclass(frozen=True, slots=True)
class ListOf:
    item: Shape


@dataclass(frozen=True, slots=True)
class Object:
    fields: tuple[Field, ...]
    extra: Callable[[dict[str, object]], Iterator[Problem]] | None = None
    """What depends on several keys at once."""


Shape = Text | Int | Flag | ListOf | Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of a body."""

    name: str
    shape: Shape
    must: bool = False
    cleared: bool = True
    """An edit that omits it clears it (where edits replace); else it stays as it is."""
    wrong_type: str = "wrong_type"
    """The check that a value of another type fails."""

    def blank(self) -> object:
        """What it holds when it was never given."""
        match self.shape:
            case ListOf():
                return []
            case Text():
                return ""
            case Int():
                return 0
            case Flag():
                return True
            case Object():
                return {}


def problems(
    shape: Shape, value: object, where: str, check: str = "wrong_type"
) -> Iterator[Problem]:
    """All that is wrong with `value`: wrong types, missing and unknown keys, unknown words."""
    match shape:
        case Text(choices=choices):
            if not isinstance(value, str):
                yield Problem(check, f"{where} must be a string")
            elif choices and value not in choices:
                yield Problem("unknown_enum", f"{where} must be one of {', '.join(choices)}")
        case Int():
            if not isinstance(value, int) or isinstance(value, bool):
                yield Problem(check, f"{where} must be an integer")
        case Flag():
            if not isinstance(value, bool):
                yield Problem(check, f"{where} must be a boolean")
        case ListOf(item):
            if not isinstance(value, list):
                yield Problem(check, f"{where} must be a list")
                return
            for index, part in enumerate(value):
                yield from problems(item, part, f"{where}[{index}]")
        case Object(fields, extra):
            if not isinstance(value, dict):
                yield Problem(check, f"{where} must be an object")
                return
            yield from _of_object(fields, value, where)
            if extra:
                yield from extra(value)


def _of_object(
    fields: tuple[Field, ...], value: dict[str, object], where: str
) -> Iterator[Problem]:
    at = f"{where}." if where != "data" else ""
    for field in fields:
        if field.name in value:
            name = f"{at}{field.name}"
            yield from problems(field.shape, value[field.name], name, field.wrong_type)
        elif field.must:
            yield Problem("missing_key", f"Missing parameter: {at}{field.name}")
    for name in value.keys() - {field.name for field in fields} - {"id"}:
        yield Problem("unknown_key", f"Unknown parameter: {at}{name}")
