"""Switches: the settings of an emulator that may change while it runs.

Every emulator declares a table of them; the command line, the control API and the documentation
read the same table.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from . import quotas
from .clock import check_moment

__all__ = ["COMMON", "Switch", "SwitchError", "Switches"]


class SwitchError(ValueError):
    """An unknown switch, or a value that it does not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One setting: its default, what it takes, and what it does."""

    default: object
    kind: str
    """`flag int number text list object choice` (`choice`: only the words in `words`)."""
    words: tuple[str, ...] = ()
    """Words taken beside values of `kind`."""
    check: Callable[[object], None] | None = None
    """Looks closer at a value; raises ValueError."""
    doc: str

    def takes(self) -> str:
        """What it takes, in words for people."""
        words = " ".join(self.words)
        if self.kind == "choice":
            return words
        return f"{self.kind}, or {words}" if words else self.kind

    def read(self, name: str, value: object) -> object:
        """`value` as this switch keeps it; texts, as a command line has them, are understood.

        Raises: SwitchError.
        """
        if isinstance(value, str) and value in self.words:
            return value
        value = self._from_text(value) if isinstance(value, str) else value
        if self._fits(value):
            try:
                if self.check:
                    self.check(value)
            except ValueError as error:
                raise SwitchError(f"switch {name}: {error}") from error
            return value
        raise SwitchError(f"switch {name} takes {self.takes()}, not {value!r}")

    def _from_text(self, text: str) -> object:
        if self.kind == "flag" and text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        if self.kind == "list" and not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        if self.kind in ("int", "number", "list", "object"):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return text

    def _fits(self, value: object) -> bool:
        match self.kind:
            case "flag":
                return isinstance(value, bool)
            case "int":
                return isinstance(value, int) and not isinstance(value, bool) and value >= 0
            case "number":
                return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            case "text":
                return isinstance(value, str)
            case "list":
                return isinstance(value, list)
            case "object":
                return isinstance(value, dict)
        return False


_FLAGS = {"true": True, "on": True, "yes": True, "1": True}
_FLAGS |= {"false": False, "off": False, "no": False, "0": False}

COMMON: Mapping[str, Switch] = {
    "rate_per_s": Switch(
        default=0, kind="int", doc="calls answered in any second; more get a 429; 0 = no limit"
    ),
    "retry_after": Switch(
        default="seconds",
        kind="choice",
        words=("seconds", "date", "none"),
        doc="form of `Retry-After` in a 429",
    ),
    "retry_after_s": Switch(default=1, kind="int", doc="what `Retry-After` asks to wait"),
    "quota": Switch(
        default={},
        kind="object",
        check=quotas.check,
        doc='calls allowed, `{"read": "60/min", "write": "10/min"}`; by the hour with `zone` and '
        '`windows`: `[{"from": "06:00", "to": "20:00", "read": …, "write": …}]`. Logins are reads',
    ),
    "enforce_quota": Switch(
        default="off",
        kind="choice",
        words=("off", "fixed", "sliding"),
        doc="calls over the quota get a 429, counted so; `off`: they are only counted",
    ),
    "latency_s": Switch(default=0, kind="number", doc="real seconds before every answer"),
    "clock_start": Switch(
        default="",
        kind="text",
        check=check_moment,
        doc="when the clock starts, and where a reset puts it: `05:59` (the next one, in the zone "
        "of `quota`) or `2031-05-04T05:59:00Z`; empty = now",
    ),
    "clock_speed": Switch(
        default=1,
        kind="number",
        doc="seconds of the clock in a real second; 0 = it stands still but for `advance`",
    ),
    "keep_alive": Switch(default=True, kind="flag", doc="keep connections open after an answer"),
}
"""The switches of every emulator."""


class Switches:
    """The values of one running emulator's switches.

    A name may carry a part in front (`things.paging`): that value holds for this part only. Which
    parts exist is the emulator's affair (collections, for `plain`).
    """

    def __init__(self, table: Mapping[str, Switch]) -> None:
        self.table: Mapping[str, Switch] = {**COMMON, **table}
        self._values: dict[str, object] = {}

    def set(self, values: Mapping[str, object]) -> None:
        """Takes all of `values`, or none. `None` puts a switch back to its default.

        Raises: SwitchError.
        """
        taken: dict[str, object] = {}
        for name, value in values.items():
            switch = self._find(name)
            taken[name] = None if value is None else switch.read(name, value)
        for name, value in taken.items():
            if value is None:
                self._values.pop(name, None)
            else:
                self._values[name] = value

    def get(self, name: str, part: str = "") -> object:
        """The value for `part`, else the general one, else the default."""
        if part and (own := f"{part}.{name}") in self._values:
            return self._values[own]
        return self._values.get(name, self.table[name].default)

    def flag(self, name: str, part: str = "") -> bool:
        return self.get(name, part) is True

    def text(self, name: str, part: str = "") -> str:
        value = self.get(name, part)
        return value if isinstance(value, str) else ""

    def number(self, name: str, part: str = "") -> float:
        value = self.get(name, part)
        return value if isinstance(value, int | float) else 0.0

    def count(self, name: str, part: str = "") -> int:
        return int(self.number(name, part))

    def sequence(self, name: str, part: str = "") -> list[object]:
        value = self.get(name, part)
        return value if isinstance(value, list) else []

    def names(self, name: str, part: str = "") -> tuple[str, ...]:
        """A list switch whose items are texts."""
        return tuple(str(item) for item in self.sequence(name, part))

    def clear(self) -> None:
        """Every switch back to its default."""
        self._values.clear()

    def items(self) -> Iterator[tuple[str, object]]:
        """All switches with their values, parts last."""
        for name in self.table:
            yield name, self.get(name)
        yield from ((name, value) for name, value in self._values.items() if "." in name)

    def _find(self, name: str) -> Switch:
        plain = name.rpartition(".")[2]
        if plain in self.table:
            return self.table[plain]
        near = difflib.get_close_matches(plain, self.table, n=3)
        hint = f"; do you mean {' or '.join(near)}?" if near else ""
        raise SwitchError(f"no switch is named {plain}{hint}")
