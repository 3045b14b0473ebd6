"""Shapes of request bodies: which keys, of which type, and what is wrong with a given body."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = [
    "Field", "Flag", "Int", "ListOf", "Object", "Problem", "Shape", "Text", "is_on", "problems",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a body; `check` names the rule, so that a switch can move it."""

    check: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    choices: tuple[str, ...] = ()
    """The only values; empty = any text."""
    form: str = ""
    """A pattern that the whole text has to fit."""
    rule: str = ""
    """What `form` asks for, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int:
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    texts: bool = False
    """`"true"` and `"false"` are taken too."""


@dataclass(frozen=True, slots=True)
class ListOf:
    item: Shape
    empty: bool = True
    """It may be empty."""


@dataclass(frozen=True, slots=True)
class Object:
    fields: tuple[Field, ...]
    extra: Callable[[dict[str, object]], Iterator[Problem]] | None = None
    """What depends on several keys at once."""
    open: bool = False
    """Any other key is taken and kept."""


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
        case Text(choices=choices, form=form, rule=rule):
            if not isinstance(value, str):
                yield Problem(check, f"{where} must be a string")
            elif choices and value not in choices:
                yield Problem("unknown_enum", f"{where} must be one of {', '.join(choices)}")
            elif form and not re.fullmatch(form, value):
                yield Problem("bad_value", f"{where} must be {rule}")
        case Int(least=least, most=most):
            if not isinstance(value, int) or isinstance(value, bool):
                yield Problem(check, f"{where} must be an integer")
            elif least is not None and value < least:
                yield Problem("bad_value", f"{where} must be at least {least}")
            elif most is not None and value > most:
                yield Problem("bad_value", f"{where} must be at most {most}")
        case Flag(texts=texts):
            if not isinstance(value, bool) and not (texts and value in ("true", "false")):
                yield Problem(check, f"{where} must be a boolean")
        case ListOf(item, empty):
            if not isinstance(value, list):
                yield Problem(check, f"{where} must be a list")
                return
            if not value and not empty:
                yield Problem("bad_value", f"{where} must not be empty")
            for index, part in enumerate(value):
                yield from problems(item, part, f"{where}[{index}]")
        case Object(fields, extra, open_):
            if not isinstance(value, dict):
                yield Problem(check, f"{where} must be an object")
                return
            yield from _of_object(fields, value, where, open_)
            if extra:
                yield from extra(value)


def _of_object(
    fields: tuple[Field, ...], value: dict[str, object], where: str, open_: bool
) -> Iterator[Problem]:
    at = f"{where}." if where != "data" else ""
    for field in fields:
        if field.name in value:
            name = f"{at}{field.name}"
            yield from problems(field.shape, value[field.name], name, field.wrong_type)
        elif field.must:
            yield Problem("missing_key", f"Missing parameter: {at}{field.name}")
    unknown = set() if open_ else value.keys() - {field.name for field in fields} - {"id"}
    for name in sorted(unknown):
        yield Problem("unknown_key", f"Unknown parameter: {at}{name}")


def is_on(value: object) -> bool:
    """A flag's meaning, whichever of its forms was sent."""
    return value is True or value in ("true", "on")
