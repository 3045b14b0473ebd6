"""Transforms: what goes in, what comes out, what is refused."""

from __future__ import annotations

from datetime import date
from typing import Any

import duckdb
import pytest

from dsync.checks import CATALOGUE as CHECKS
from dsync.errors import Invalid
from dsync.transforms import CATALOGUE, Column

FAILS = object()

VALUES: list[tuple[str, Any, dict[str, Any], Any]] = [
    ("norm_str", "  a \t b\u00a0 c ", {}, "a b c"),
    ("norm_str", "   ", {}, None),
    ("norm_str", "ÀB", {}, "ÀB"),
    ("strip", "\u00a0x y\u2003", {}, "x y"),
    ("lower", "ÀB", {}, "àb"),
    ("upper", ["a", "b"], {}, ["A", "B"]),
    ("title", "mAJOR", {}, "Major"),
    ("split", " a | b||c ", {"sep": "|"}, ["a", "b", "c"]),
    ("split", "a;b", {}, ["a", "b"]),
    ("split", "a|b", {"sep": "|"}, ["a", "b"]),
    ("split", "", {"sep": "|"}, []),
    ("split", None, {"sep": "|"}, None),
    ("to_list", "['a', 'b']", {}, ["a", "b"]),
    ("to_list", '["a"]', {}, ["a"]),
    ("to_list", "a|b", {}, ["a", "b"]),
    ("to_list", "[a", {}, FAILS),
    ("uniq", ["b", "a", "b"], {}, ["b", "a"]),
    ("uniq", ["b", "a"], {}, ["b", "a"]),
    ("sort", ["b", "a", "b"], {}, ["a", "b", "b"]),
    ("compact", ["a", None], {}, ["a"]),
    ("csv", ["b", "a"], {}, "b,a"),
    ("csv", [1, 2], {"sep": " "}, "1 2"),
    *[("to_bool", word, {}, True) for word in ("1", "true", "YES", "y", "On", " true ")],
    *[("to_bool", word, {}, False) for word in ("0", "False", "no", "N", "off")],
    ("to_bool", "maybe", {}, FAILS),
    ("to_bool", True, {}, True),
    ("to_int", "365.0", {}, 365),
    ("to_int", " -7 ", {}, -7),
    ("to_int", 3.0, {}, 3),
    *[("to_int", text, {}, FAILS) for text in ("3.5", "1e3", "0x10", "1_000", "x", "9" * 30)],
    ("to_int", 3.5, {}, FAILS),
    ("to_int", ["1", "2.0"], {}, [1, 2]),
    ("to_int", ["1", "x"], {}, FAILS),
    ("to_float", "1.5e3", {}, 1500.0),
    ("to_float", "\u00a01.5", {}, 1.5),
    *[("to_float", text, {}, FAILS) for text in ("1,5", "nan", "inf", "1_000", "0x10", "")],
    ("to_date", "2026-01-02", {}, date(2026, 1, 2)),
    ("to_date", "2026-01-02T00:00:00", {}, date(2026, 1, 2)),
    ("to_date", "31/12/2026", {"format": "%d/%m/%Y"}, date(2026, 12, 31)),
    *[("to_date", text, {}, FAILS) for text in ("2026-02-30", "2026-01-02T10:00:00", "x")],
    ("json", '{"a": [1]}', {}, '{"a": [1]}'),
    ("json", "{a", {}, FAILS),
    ("json", '"\\u00e9"', {}, '"\\u00e9"'),
    ("json", '["\\ue000[]\\uE001"]', {}, FAILS),
    ("to_list", '["\\uE000x"]', {}, FAILS),
    ("default", None, {"value": "x"}, "x"),
    ("default", "y", {"value": "x"}, "y"),
    ("map", "a", {"values": {"a": 1, "b": 2}}, 1),
    ("map", "c", {"values": {"a": 1}}, FAILS),
    ("map", "c", {"values": {"a": "x"}, "other": "z"}, "z"),
    ("map", ["a", "b"], {"values": {"a": True, "b": False}}, [True, False]),
    ("map", "a", {"values": {"a": 1, "b": 1.5}}, 1.0),
    ("replace", "a,b", {"old": ",", "new": "|"}, "a|b"),
    ("replace", "a1b22", {"old": "[0-9]+", "new": "#", "regex": True}, "a#b#"),
    ("suffix", ["a/", "b"], {"text": "/"}, ["a/", "b/"]),
    ("prefix", "b", {"text": "/"}, "/b"),
    ("blank", "None", {"words": ["none", "-"]}, None),
    ("blank", ["None", "x"], {"words": ["none"]}, ["x"]),
]


def _type(value: Any) -> str:
    if isinstance(value, list):
        return _type(value[0]) + "[]"
    return {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE"}.get(type(value), "VARCHAR")


@pytest.mark.parametrize(("name", "value", "parameters", "expected"), VALUES)
def test_value(name: str, value: Any, parameters: dict[str, Any], expected: Any) -> None:
    """A transform gives this value, of the type that it announces; it never raises for data."""
    con = duckdb.connect()
    con.execute(f"CREATE TABLE t (x {_type(value)})")
    con.execute("INSERT INTO t VALUES (?)", [value])
    transform = CATALOGUE[name]
    column = transform(Column("s.x", _type(value)), **parameters)
    found, type_ = con.execute(f"SELECT {column.sql}, typeof({column.sql}) FROM t s").fetchall()[0]
    assert found == (None if expected is FAILS else expected)
    assert type_ == column.type
    if expected is FAILS:
        assert transform.checked
        assert transform.expects


@pytest.mark.parametrize("name", ["uniq", "sort", "compact", "csv"])
def test_wants_a_list(name: str) -> None:
    """A transform of lists says so when it gets a text."""
    with pytest.raises(Invalid, match="works on a list") as fault:
        CATALOGUE[name](Column("x"))
    assert fault.value.code == "DS-PROFILE-005"


def test_typed_values_pass() -> None:
    """A value that has the type already is left alone."""
    for name, type_ in [("to_bool", "BOOLEAN"), ("to_int", "BIGINT"), ("to_float", "DOUBLE"),
                        ("to_date", "DATE"), ("json", "JSON")]:  # fmt: skip
        column = Column("x", type_)
        assert CATALOGUE[name](column) == column


def test_catalogues_are_documented() -> None:
    """Each transform and each check has a first line that says what it does."""
    for entry in [*CATALOGUE.values(), *CHECKS.values()]:
        assert entry.summary.endswith("."), entry.name
