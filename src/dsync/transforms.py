"""The catalogue of transforms: functions from a column expression to a column expression.

A transform is columnar: it turns SQL text into SQL text, and never sees a row. It never raises for
data: where it cannot do its work it gives NULL, and `desired` turns "not null in, null out" into a
finding with the row, the field and the value. A transform that works on single values is applied
to each item of a list. A blank (NULL) stays blank, except through `default`.

The first line of a docstring, the parameters and their defaults are the transform's documentation:
the table in `docs/profiles.md` is made from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dsync.errors import Invalid
from dsync.sql import literal


@dataclass(frozen=True, slots=True)
class Column:
    """A column expression: DuckDB SQL text and its DuckDB type, such as `VARCHAR[]`."""

    sql: str
    type: str = "VARCHAR"

    @property
    def is_list(self) -> bool:
        """True for a list of anything."""
        return self.type.endswith("[]")

    @property
    def item(self) -> str:
        """The type of an item, for a list; else the type itself."""
        return self.type[:-2] if self.is_list else self.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """An entry of the catalogue. `checked` means that NULL out of not-NULL in is a fault."""

    name: str
    function: Callable[..., Column]
    parameters: Mapping[str, bool]
    """name -> is it required?"""
    checked: bool
    expects: str
    """what a good value looks like, for messages: `a whole number`"""

    def __call__(self, column: Column, **parameters: Any) -> Column:
        """The column after the transform."""
        return self.function(column, **parameters)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


CATALOGUE: dict[str, Transform] = {}
F = TypeVar("F", bound=Callable[..., Column])


def _transform(*, checked: bool = False, expects: str = "") -> Callable[[F], F]:
    """Enter a function into the catalogue under its own name (a trailing `_` dropped)."""

    def enter(function: F) -> F:
        key = function.__name__.rstrip("_")
        parameters = {
            p.name: p.default is p.empty
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        CATALOGUE[key] = Transform(
            name=key, function=function, parameters=parameters, checked=checked, expects=expects
        )
        return function

    return enter


def _each(column: Column, change: Callable[[str], str], type_: str = "VARCHAR") -> Column:
    """Apply `change` to the value, or to each item of a list; texts are made of other types."""
    if column.is_list:
        return Column(f"list_transform({column.sql}, lambda _x_: {change('_x_')})", f"{type_}[]")
    return Column(change(column.sql), type_)


def _text(column: Column) -> Column:
    """The column as text, or as a list of texts."""
    if column.type in ("VARCHAR", "VARCHAR[]"):
        return column
    if column.is_list:
        return Column(f"{column.sql}::VARCHAR[]", "VARCHAR[]")
    if column.type == "JSON":
        return Column(f"({column.sql} ->> '$')")
    return Column(f"{column.sql}::VARCHAR")


def _wants_list(column: Column, fn: str) -> Column:
    if not column.is_list:
        raise Invalid(
            f"{fn} works on a list, and gets {column.type}",
            code="DS-PROFILE-005",
            hint=f"put a step that makes a list before {fn}, such as {{fn: split, sep: '|'}}",
        )
    return column


# White space as people type it: the ASCII ones, NBSP and the other Unicode spaces.
_SPACE = r"[\s\x{00A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"
_EDGES = " \t\r\n\f\v\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    chr(code) for code in range(0x2000, 0x200B)
)


def _trim(sql: str) -> str:
    return f"trim({sql}, {literal(_EDGES)})"


@_transform()
def norm_str(column: Column) -> Column:
    """Trim, and collapse inner white space to one space; case is kept, nothing left is a blank."""

    def change(sql: str) -> str:
        # The costly replacement runs only where there is something to collapse: two spaces, a
        # character beyond ASCII, or a control character that people paste.
        odd = (
            f"contains({sql}, '  ') OR strlen({sql}) <> length({sql}) OR contains({sql}, '\t') "
            f"OR contains({sql}, '\n') OR contains({sql}, '\r')"
        )
        squeezed = f"regexp_replace({sql}, '{_SPACE}+', ' ', 'g')"
        return f"nullif(trim(CASE WHEN {odd} THEN {squeezed} ELSE {sql} END), '')"

    return _each(_text(column), change)


@_transform()
def strip(column: Column) -> Column:
    """Trim white space at both ends; nothing left is a blank."""
    return _each(_text(column), lambda sql: f"nullif({_trim(sql)}, '')")


@_transform()
def lower(column: Column) -> Column:
    """Lower case."""
    return _each(_text(column), lambda sql: f"lower({sql})")


@_transform()
def upper(column: Column) -> Column:
    """Upper case."""
    return _each(_text(column), lambda sql: f"upper({sql})")


@_transform()
def title(column: Column) -> Column:
    """First letter upper case, the others lower case."""
    return _each(_text(column), lambda sql: f"upper(({sql})[1]) || lower(({sql})[2:])")


@_transform()
def split(column: Column, *, sep: str = ";") -> Column:
    """A text becomes a list at each `sep`; items are trimmed, empty ones dropped."""
    text = _text(column).sql
    items = f"string_split({text}, {literal(sep)})"
    trimmed = f"list_transform({items}, lambda _x_: {_trim('_x_')})"
    kept = f"list_filter({trimmed}, lambda _x_: _x_ <> '')"
    # Most texts need neither trimming nor filtering: no blank, no empty part.
    doubled, edge = literal(sep * 2), literal(sep)
    tidy = (
        f"strlen({text}) = length({text}) AND NOT contains({text}, ' ') "
        f"AND NOT contains({text}, '\t') AND NOT contains({text}, '\n') "
        f"AND NOT contains({text}, '\r') "
        f"AND NOT contains({text}, {doubled}) AND NOT starts_with({text}, {edge}) "
        f"AND NOT ends_with({text}, {edge}) AND {text} <> ''"
    )
    return Column(f"CASE WHEN {tidy} THEN {items} WHEN {text} IS NOT NULL THEN {kept} END",
                  "VARCHAR[]")  # fmt: skip


@_transform(checked=True, expects="a JSON array, a list literal or a separated text")
def to_list(column: Column, *, sep: str = "|") -> Column:
    """A text becomes a list: a JSON array, a literal such as ['a', 'b'], or parts between `sep`."""
    sql = _unescaped(_text(column).sql)
    double = f"replace({sql}, '''', '\"')"
    array = (
        f"CASE WHEN json_valid({sql}) THEN from_json({sql}, '[\"VARCHAR\"]') "
        f"WHEN json_valid({double}) THEN from_json({double}, '[\"VARCHAR\"]') END"
    )
    parts = split(Column(sql), sep=sep).sql
    return Column(f"CASE WHEN starts_with({_trim(sql)}, '[') THEN {array} ELSE {parts} END",
                  "VARCHAR[]")  # fmt: skip


@_transform()
def uniq(column: Column) -> Column:
    """Keep the first occurrence of each item."""
    sql = _wants_list(column, "uniq").sql
    first = f"list_filter({sql}, lambda _x_, _i_: list_position({sql}, _x_) = _i_)"
    return Column(f"CASE WHEN len({sql}) = len(list_distinct({sql})) THEN {sql} ELSE {first} END",
                  column.type)  # fmt: skip


@_transform()
def sort(column: Column) -> Column:
    """Sort the items (texts by code point)."""
    return Column(f"list_sort({_wants_list(column, 'sort').sql})", column.type)


@_transform()
def compact(column: Column) -> Column:
    """Drop blank items of a list."""
    sql = _wants_list(column, "compact").sql
    return Column(f"list_filter({sql}, lambda _x_: _x_ IS NOT NULL)", column.type)


@_transform()
def csv(column: Column, *, sep: str = ",") -> Column:
    """A list becomes a text, `sep` between its items."""
    texts = _text(_wants_list(column, "csv")).sql
    return Column(f"array_to_string({texts}, {literal(sep)})")


@_transform(checked=True, expects="one of 1/true/yes/y/on and 0/false/no/n/off")
def to_bool(column: Column) -> Column:
    """True for 1/true/yes/y/on, false for 0/false/no/n/off, in any case; else a fault."""
    if column.item == "BOOLEAN":
        return column

    def change(sql: str) -> str:
        values = literal([True] * len(_YES) + [False] * len(_NO))
        position = f"list_position({literal(_YES + _NO)}, lower({_trim(sql)}))"
        return (
            f"CASE {sql} WHEN 'true' THEN true WHEN 'false' THEN false "
            f"ELSE ({values})[{position}] END"
        )

    return _each(_text(column), change, "BOOLEAN")


_YES = ["1", "true", "yes", "y", "on", "1.0"]
_NO = ["0", "false", "no", "n", "off", "0.0"]


@_transform(checked=True, expects="a whole number")
def to_int(column: Column) -> Column:
    """A whole number; `365.0` is 365, and anything else that is not one is a fault."""
    if column.item in ("BIGINT", "INTEGER", "SMALLINT", "TINYINT"):
        return column

    def change(sql: str) -> str:
        whole = f"regexp_extract({_trim(sql)}, '^([+-]?[0-9]+)(\\.0*)?$', 1)"
        plain = f"try_cast({sql} AS BIGINT)"
        # A cast takes too much (`1e3`, `0x10`, `1.7`); what it writes back unchanged is plain.
        return (
            f"CASE WHEN {plain}::VARCHAR = {sql} THEN {plain} ELSE try_cast({whole} AS BIGINT) END"
        )

    return _checked_list(column, _each(_text(column), change, "BIGINT"))


@_transform(checked=True, expects="a number with a point")
def to_float(column: Column) -> Column:
    """A number; the decimal sign is a point, thousands are not grouped."""
    if column.item in ("DOUBLE", "FLOAT"):
        return column

    def change(sql: str) -> str:
        number = f"try_cast({sql} AS DOUBLE)"
        form = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
        # A cast takes `nan`, `inf` and `1_000` too, and does not know NBSP. The slow road is
        # written once, as DuckDB computes an expression that stands twice for every row.
        return (
            f"CASE WHEN isfinite({number}) AND NOT contains({sql}, '_') THEN {number} "
            f"ELSE try_cast(regexp_extract({_trim(sql)}, '{form}') AS DOUBLE) END"
        )

    return _checked_list(column, _each(_text(column), change, "DOUBLE"))


@_transform(checked=True, expects="a date")
def to_date(column: Column, *, format: str = "%Y-%m-%d") -> Column:
    """A date, read by `format` (strptime); midnight after an ISO date is dropped.

    Of a typed date with a time it is the day.
    """
    if column.item == "DATE":
        return column
    if column.type == "TIMESTAMP":
        return Column(f"({column.sql})::DATE", "DATE")

    def change(sql: str) -> str:
        text = _trim(sql)
        if format != "%Y-%m-%d":
            return f"try_strptime({text}, {literal(format)})::DATE"
        plain = f"try_cast({sql} AS DATE)"
        text = f"regexp_replace({text}, '[T ]00:00(:00(\\.0+)?)?Z?$', '')"
        return (
            f"CASE WHEN {plain}::VARCHAR = {sql} THEN {plain} "
            f"ELSE try_strptime({text}, '%Y-%m-%d')::DATE END"
        )

    return _checked_list(column, _each(_text(column), change, "DATE"))


@_transform(checked=True, expects="JSON")
def json(column: Column) -> Column:
    """A text that is JSON becomes the value that it says."""
    if column.type == "JSON":
        return column
    sql = _text(column).sql
    return Column(f"try_cast({_unescaped(sql)} AS JSON)", "JSON")


@_transform()
def default(column: Column, *, value: Any) -> Column:
    """What a blank becomes."""
    return Column(f"coalesce({column.sql}, {literal(value)}::{column.type})", column.type)


@_transform(checked=True, expects="one of the values that the profile maps")
def map_(column: Column, *, values: dict[str, Any], other: Any = ...) -> Column:
    """Replace by a table of `values`; `other` is for what is not in it (null: a blank)."""
    results = list(values.values()) + ([] if other is ... else [other])
    texts = [value for value in results if value is not None]
    type_ = _common_type(texts)
    keep = "NULL" if other is ... else f"{literal(other)}::{type_}"

    def change(sql: str) -> str:
        cases = " ".join(
            f"WHEN {literal(str(key))} THEN {literal(value)}::{type_}"
            for key, value in values.items()
        )
        return f"CASE {sql} {cases} ELSE {keep} END"

    return _each(_text(column), change, type_)


@_transform()
def replace(column: Column, *, old: str, new: str = "", regex: bool = False) -> Column:
    """Replace every `old` by `new`; with `regex`, `old` is an RE2 expression."""
    if regex:
        return _each(
            _text(column),
            lambda sql: f"regexp_replace({sql}, {literal(old)}, {literal(new)}, 'g')",
        )
    return _each(_text(column), lambda sql: f"replace({sql}, {literal(old)}, {literal(new)})")


@_transform()
def suffix(column: Column, *, text: str) -> Column:
    """See to it that the text ends with `text`."""
    end = literal(text)
    return _each(
        _text(column),
        lambda sql: f"CASE WHEN ends_with({sql}, {end}) THEN {sql} ELSE {sql} || {end} END",
    )


@_transform()
def prefix(column: Column, *, text: str) -> Column:
    """See to it that the text begins with `text`."""
    start = literal(text)
    return _each(
        _text(column),
        lambda sql: f"CASE WHEN starts_with({sql}, {start}) THEN {sql} ELSE {start} || {sql} END",
    )


@_transform()
def blank(column: Column, *, words: list[str]) -> Column:
    """These words, in any case, mean a blank."""
    low = literal([word.lower() for word in words])
    text = _text(column)
    if text.is_list:
        kept = (
            f"list_filter({text.sql}, lambda _x_: NOT list_contains({low}, lower({_trim('_x_')})))"
        )
        return Column(kept, text.type)
    return Column(
        f"CASE WHEN NOT list_contains({low}, lower({_trim(text.sql)})) THEN {text.sql} END"
    )


def _unescaped(sql: str) -> str:
    r"""NULL for a text that hides the marks of a reference behind an escape such as `\ue000`."""
    hidden = f"contains({sql}, '\\u') AND regexp_matches({sql}, '(?i)\\\\ue00[01]')"
    return f"(CASE WHEN NOT ({hidden}) THEN {sql} END)"


def _common_type(values: list[Any]) -> str:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds == {int}:
        return "BIGINT"
    if kinds and kinds <= {int, float}:
        return "DOUBLE"
    return "VARCHAR"


def _checked_list(before: Column, after: Column) -> Column:
    """A list in which one item failed fails as a whole: an item is never lost in silence."""
    if not after.is_list:
        return after
    # An item that was blank already is no failure; one that became blank is.
    lost = (
        f"len(list_filter({after.sql}, lambda _x_: _x_ IS NULL)) > "
        f"len(list_filter({before.sql}, lambda _x_: _x_ IS NULL))"
    )
    return Column(f"CASE WHEN NOT ({lost}) THEN {after.sql} END", after.type)
