"""User-defined lists: static ones hold what is written, dynamic ones are filled by their node.

Source: Director API 2.7.0 and observed traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from .director_kinds import Desk, Form, Refused, Resource, installation
from .director_nodes import Stored, View
from .shapes import Field, Int, ListOf, Object, Problem, Text

__all__ = ["LISTS"]

_NAME = Text(
    form=r"(?=.{2,100}$)[A-Za-z0-9][A-Za-z0-9_]*[A-Za-z0-9]",
    rule="2 to 100 letters, digits and _, with a letter or digit at either end",
)
_VALUES = Field(name="lists", shape=ListOf(Text()), must=True)
_AGES = {"agelimit_day": 86_400, "agelimit_hour": 3_600, "agelimit_minute": 60}
_AGE = tuple(Field(name=name, shape=Int(least=0), must=True) for name in _AGES)


def _born(view: View) -> Stored:
    return {
        "name": "",
        "user": view.switches.text("token_user"),
        "tid": "",
        "active": True,
        "hidden": False,
        "list_type": "static_list",
        "lists": [],
        "lists_vendor": [],
        "age_limit": 0,
        "last_updated": "",
        "vid": "",
    }


def _static(_view: View, body: Stored) -> Stored:
    return {"name": str(body.get("s_name", "")).upper(), **_values(_view, body)}


def _values(_view: View, body: Stored) -> Stored:
    return {"list_type": "static_list", "lists": body.get("lists", [])}


def _dynamic(view: View, body: Stored) -> Stored:
    return {"name": str(body.get("d_name", "")).upper(), **_age(view, body)}


def _age(_view: View, body: Stored) -> Stored:
    numbers = {name: body.get(name) for name in _AGES}
    seconds = sum(
        number * _AGES[name] for name, number in numbers.items() if isinstance(number, int)
    )
    return {"list_type": "dynamic_list", "age_limit": seconds}


def _vendors(_view: View, value: Stored, _body: Stored) -> Iterator[Problem]:
    if value.get("vid"):
        yield Problem("vendor_object", f"Vendor list cannot be deleted: {value['name']}")


def _install(desk: Desk, _target: Stored, body: Stored) -> None:
    """A text file is a static list of its name, a line a value; other files are only noted."""
    path = PurePosixPath(str(body["file_name"]))
    if path.suffix not in (".txt", ".csv"):
        return
    try:
        lines = (desk.node.file("Lists", body) or b"").decode().splitlines()
    except UnicodeDecodeError as error:
        raise Refused(f"File is not UTF-8: {path}") from error
    view, name = desk.view, path.stem.upper()
    there = [one for one in view.objects("Lists").values() if one.get("name") == name]
    value = there[0] if there else {"id": desk.node.new_id(), **_born(view), "name": name}
    desk.put("Lists", {**value, "lists": [line for line in lines if line]})


LISTS: dict[str, Resource] = {
    "Lists": Resource(
        key="name",
        creates={
            "static": Form(
                shape=Object((Field(name="s_name", shape=_NAME, must=True), _VALUES)),
                key="s_name",
                kept=_static,
            ),
            "dynamic": Form(
                shape=Object((Field(name="d_name", shape=_NAME, must=True), *_AGE)),
                key="d_name",
                kept=_dynamic,
            ),
        },
        edits={
            "static": Form(
                shape=Object((_VALUES,)), kept=_values, only=("list_type", "static_list")
            ),
            "dynamic": Form(shape=Object(_AGE), kept=_age, only=("list_type", "dynamic_list")),
        },
        stale=True,
        born=_born,
        identity=lambda value: value.get("name") or None,
        trash_check=_vendors,
        shared_actions={"install": installation("Lists", act=_install)},
        files=True,
    ),
}
"""By the name in the path."""
