"""The catalogue of checks: from a rule of a profile to a SQL condition that finds its offenders.

A check is columnar: it gives a condition that is true for the rows that break the rule, and the
SQL of the message. The first line of a docstring, the parameters and their defaults are the
check's documentation: the table in `docs/profiles.md` is made from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dsync.sql import literal
from dsync.transforms import Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Offence:
    """`condition` is true for the rows that break the rule; `message` is a SQL text expression."""

    condition: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An entry of the catalogue. `field` tells whether the check looks at one field."""

    name: str
    function: Callable[..., Offence]
    parameters: Mapping[str, bool]
    """name -> is it required?"""
    field: bool

    def __call__(self, field: str, column: Column, **parameters: Any) -> Offence:
        """The offence of one rule."""
        return self.function(field, column, **parameters)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


CATALOGUE: dict[str, Check] = {}


def _check(function: Callable[..., Offence]) -> Callable[..., Offence]:
    key = function.__name__.rstrip("_")
    signature = inspect.signature(function).parameters.values()
    CATALOGUE[key] = Check(
        name=key,
        function=function,
        parameters={p.name: p.default is p.empty for p in signature if p.kind is p.KEYWORD_ONLY},
        field=key != "sql",
    )
    return function


def empty(column: Column) -> str:
    """The SQL condition that a value is blank: NULL, an empty text or an empty list."""
    if column.is_list:
        return f"coalesce(len({column.sql}), 0) = 0"
    if column.type == "VARCHAR":
        return f"coalesce({column.sql}, '') = ''"
    if column.type == "JSON":
        return f"coalesce({column.sql}::VARCHAR, 'null') IN ('null', '\"\"', '[]', '{{}}')"
    return f"{column.sql} IS NULL"


def _any(column: Column, condition: Callable[[str], str]) -> str:
    """The condition on the value, or on any item of a list."""
    if column.is_list:
        return f"len(list_filter({column.sql}, lambda _x_: {condition('_x_')})) > 0"
    return condition(column.sql)


def _shown(column: Column) -> str:
    return f"left(coalesce({column.sql}::VARCHAR, ''), 80)"


@_check
def non_empty(field: str, column: Column) -> Offence:
    """The field has a value; an empty list is none."""
    return Offence(condition=empty(column), message=literal(f"{field} is empty"))


@_check
def must_exist(field: str, column: Column) -> Offence:
    """The lookup found its record (a blank name is fine)."""
    return Offence(condition=f"{column.sql} IS NULL", message=literal(f"{field} was not found"))


@_check
def must_exist_many(field: str, column: Column) -> Offence:
    """The lookup found all its records."""
    return Offence(condition=f"{column.sql} IS NULL", message=literal(f"{field} was not found"))


@_check
def min_(field: str, column: Column, *, value: float) -> Offence:
    """The number, or each of the list, is at least `value`."""
    return Offence(
        condition=_any(column, lambda sql: f"{sql} < {literal(value)}"),
        message=f"{literal(f'{field} is below {value}: ')} || {_shown(column)}",
    )


@_check
def max_(field: str, column: Column, *, value: float) -> Offence:
    """The number, or each of the list, is at most `value`."""
    return Offence(
        condition=_any(column, lambda sql: f"{sql} > {literal(value)}"),
        message=f"{literal(f'{field} is above {value}: ')} || {_shown(column)}",
    )


@_check
def one_of(field: str, column: Column, *, values: list[Any]) -> Offence:
    """The value, or each of the list, is one of `values`."""
    names = ", ".join(str(value) for value in values)
    return Offence(
        condition=_any(column, lambda sql: f"NOT list_contains({literal(values)}, {sql})"),
        message=f"{literal(f'{field} is not one of {names}: ')} || {_shown(column)}",
    )


@_check
def matches(field: str, column: Column, *, pattern: str) -> Offence:
    """The text, or each of the list, matches the whole RE2 `pattern`."""
    return Offence(
        condition=_any(column, lambda sql: f"NOT regexp_full_match({sql}, {literal(pattern)})"),
        message=f"{literal(f'{field} does not match {pattern}: ')} || {_shown(column)}",
    )


# Alone, or for one value of a query (`token=****`): inside other texts, stars may be meant.
_MASK = (
    r"(?is)\s*[*•●]{3,}\s*|\s*(?:\*+|[<\[({]+)\s*(?:redacted|masked|hidden|removed|secret|password)"
    r"\s*(?:\*+|[>\])}]+)\s*|.*=[*•●]{3,}(?:[&;].*)?"
)


@_check
def not_masked(field: str, column: Column) -> Offence:
    """The text, or each of the list, is no mask such as `****` in the place of a secret."""
    return Offence(
        condition=_any(column, lambda sql: f"regexp_full_match({sql}, {literal(_MASK)})"),
        message=literal(f"{field}: a mask stands in the place of the value"),
    )


@_check
def max_length(field: str, column: Column, *, value: int) -> Offence:
    """The text, or each of the list, has at most `value` characters."""
    return Offence(
        condition=_any(column, lambda sql: f"length({sql}) > {int(value)}"),
        message=f"{literal(f'{field} is longer than {value} characters: ')} || {_shown(column)}",
    )


@_check
def min_items(field: str, column: Column, *, value: int) -> Offence:
    """The list has at least `value` items."""
    return Offence(
        condition=f"coalesce(len({column.sql}), 0) < {int(value)}",
        message=literal(f"{field} has fewer than {value} items"),
    )


@_check
def unique_in_sheet(field: str, column: Column) -> Offence:
    """No other row has the same value; all rows that share one are offenders."""
    value = f"CASE WHEN NOT ({empty(column)}) THEN {column.sql} END"
    return Offence(
        condition=f"{value} IS NOT NULL AND count(*) OVER (PARTITION BY {value}) > 1",
        message=f"{literal(f'{field} is in several rows: ')} || {_shown(column)}",
    )


@_check
def sql(field: str, column: Column, *, where: str) -> Offence:
    """The SQL condition `where` (over the profile's fields) is not true for the row."""
    return Offence(condition=where, message=literal(f"the row breaks the rule: {where}"))
