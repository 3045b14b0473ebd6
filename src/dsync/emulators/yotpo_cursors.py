"""The cursors of the Yotpo emulator: opaque, sealed, and cruel to who encodes them twice."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass, field
from urllib.parse import quote

from .messages import encode
from .yotpo_people import View

__all__ = ["PAGE_SIZE", "Cursor", "read_cursor"]

PAGE_SIZE = 100
"""Records a page, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a listing stands, and what its first call asked for."""

    what: str
    after: int = 0
    """So many records were passed."""
    page: int = 1
    limit: int = PAGE_SIZE
    loyalty: bool = False
    reviews: bool = False
    properties: bool = False
    again: bool = False
    """This page was asked for before, because the emulator lied."""
    filters: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """As the answer carries it: with `+`, `/` and `=`, and percent-encoded."""
        plain = encode(asdict(self))
        plain += b" " * (-(len(plain) + 5) % 3)
        sealed = zlib.crc32(plain).to_bytes(4, "big") + plain
        # The first three bytes are `+/++`, and one byte is over: `==`.
        return quote(base64.b64encode(b"\xfb\xff\xbe" + sealed), safe="")

    def following(self, **changes: object) -> Cursor:
        values = {**asdict(self), "again": False, "page": self.page + 1, **changes}
        return Cursor(**values)

    @property
    def view(self) -> View:
        return View(loyalty=self.loyalty, reviews=self.reviews, properties=self.properties)


def read_cursor(text: str) -> Cursor | None:
    """None for anything that was not made by `Cursor.text`, decoded once."""
    try:
        sealed = base64.b64decode(text, validate=True)
        plain = sealed[7:]
        if sealed[:3] != b"\xfb\xff\xbe" or zlib.crc32(plain) != int.from_bytes(sealed[3:7], "big"):
            return None
        return Cursor(**json.loads(plain))
    except (ValueError, TypeError):
        return None
