"""Values of an axis of the N2F emulator: projects, plates, subposts and their like."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import date

from .n2f_data import REFUSALS, Axis, Company, Data, Refused, Value
from .switches import Switches

__all__ = ["Values", "refusal"]

_CULTURE = re.compile(r"[A-Za-z]{2}")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?)?")
_FIELDS = ("code", "names", "validityDateFrom", "validityDateTo")
_DATES = _FIELDS[2:]


class Values:
    """The values of all axes, as the API sees them."""

    def __init__(self, data: Data, switches: Switches, chance: random.Random) -> None:
        self._data, self._switches, self._chance = data, switches, chance

    def upsert(self, axis: Axis, body: Value) -> tuple[bool, Value]:
        """Creates or changes the value of a body's `code`: whether it is new, and the value.

        Raises: Refused.
        """
        code = body.get("code")
        if not isinstance(code, str) or not code:
            raise Refused.field("code")
        if self._switches.text("unknown_fields") == "refused":
            for name in body.keys() - set(_FIELDS):
                raise Refused.field(name)
        before = axis.values.get(code)
        changes: Value = {}
        if "names" in body or before is None:
            changes["names"] = _names(body.get("names"))
        changes |= {name: _day(name, body[name]) for name in _DATES if name in body}
        if before is not None:
            before |= changes
            return False, before
        value: Value = {"uuid": self._data.new_value_id(), "code": code}
        value |= {**dict.fromkeys(_DATES), **changes}
        axis.values[code] = value
        return True, value

    def delete(self, company: Company, axis: Axis, code: str) -> Value:
        """Removes a value. Raises: Refused."""
        value = axis.values.get(code)
        if value is None:
            raise Refused(404, f"Unknown value: {code}")

        def here(one: object) -> bool:
            return isinstance(one, dict) and (
                one.get("code") == code
                and one.get("company") in (company.uuid, company.code)
                and company.axis(one.get("axis")) is axis
            )

        if text := refusal(self._switches, value, code, here):
            raise Refused(409, text)
        return axis.values.pop(code)

    def shown(self) -> Callable[[Value], Value]:
        """A function that makes of a value what is read; as the switches stand now."""
        order, dates = self._switches.text("names_order"), self._switches.text("date_style")
        drop, extra = (
            self._switches.text("null_style") == "absent",
            self._switches.flag("extra_fields"),
        )
        tail = {"z": "T00:00:00Z", "no_z": "T00:00:00"}.get(dates, "")

        def show(value: Value) -> Value:
            read = {"uuid": value["uuid"], "code": value["code"]}
            read["names"] = self._ordered(value["names"], order)
            for name in _DATES:
                day = value[name]
                if day or not drop:
                    read[name] = f"{day}{tail}" if day else None
            if extra:
                read |= {"id": value["uuid"], "parent": None}
            return read

        return show

    def _ordered(self, names: object, order: str) -> object:
        if not isinstance(names, list) or order == "written":
            return names
        if order == "shuffled":
            return self._chance.sample(names, len(names))
        more = [{"culture": "en", "value": "In English"}] if order == "extra" else []
        return [*reversed(names), *(one for one in more if not _has(names, "en"))]


def refusal(
    switches: Switches, value: Value, key: str, here: Callable[[object], bool] = lambda _: False
) -> str:
    """Why this must not be deleted, by its seed or by a switch; empty when it may."""
    for word, text in REFUSALS.items():
        listed = switches.sequence(word)
        if value.get(word) or key in listed or any(here(one) for one in listed):
            return text
    return ""


def _names(value: object) -> list[Value]:
    """The labels of a body: at least one, of one language each. Raises: Refused."""
    if not isinstance(value, list) or not value:
        raise Refused.field("names")
    seen: set[str] = set()
    for one in value:
        if not isinstance(one, dict) or not isinstance(one.get("value"), str):
            raise Refused.field("names")
        culture = one.get("culture")
        if not isinstance(culture, str) or not _CULTURE.fullmatch(culture) or culture in seen:
            raise Refused.field("names")
        seen.add(culture)
    return [{"culture": one["culture"], "value": one["value"]} for one in value]


def _day(name: str, value: object) -> str | None:
    """The day of a moment; its time of day and its zone count for nothing. Raises: Refused."""
    if value is None:
        return None
    found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    try:
        return date.fromisoformat(found[1]).isoformat() if found else _no_day(name)
    except ValueError as error:
        raise Refused.field(name) from error


def _no_day(name: str) -> str:
    raise Refused.field(name)


def _has(names: list[Value], culture: str) -> bool:
    return any(one.get("culture") == culture for one in names)
