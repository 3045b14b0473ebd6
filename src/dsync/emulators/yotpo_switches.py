"""The switches of the Yotpo emulator, and the faults of its API."""

from __future__ import annotations

from .switches import Switch

__all__ = ["FAULTS", "SWITCHES"]


def _choice(default: str, *words: str, doc: str) -> Switch:
    return Switch(default=default, kind="choice", words=(default, *words), doc=doc)


def _every(default: int, doc: str) -> Switch:
    return Switch(default=default, kind="int", doc=f"every so many customers {doc}; 0 = none")


SWITCHES: dict[str, Switch] = {
    "store_id": Switch(default="demo-store", kind="text", doc="the store, which is the app key"),
    "secret": Switch(default="demo-secret", kind="text", doc="what a token is asked for with"),
    "tokens": Switch(default=[], kind="list", doc="tokens that are valid from now on"),
    "token_life_s": Switch(default=1_209_600, kind="number", doc="how long a token is valid"),
    "token_calls": Switch(default=0, kind="int", doc="calls that a token is good for; 0 = any"),
    "unauthorized_status": _choice("401", "403", doc="status for a token that is not valid"),
    "store_rate_per_s": Switch(
        default=5, kind="int", doc="calls in any second, tokens included; more get 429; 0 = any"
    ),
    "retry_after": _choice(
        "none", "seconds", "decimal", "date", doc="form of `Retry-After` in a 429"
    ),
    "retry_after_s": Switch(
        default=0, kind="number", doc="what `Retry-After` asks to wait; 0 = as long as it takes"
    ),
    "customers": Switch(default=250, kind="int", doc="how many there are; a million is no trouble"),
    "orders": Switch(default=120, kind="int", doc="how many there are"),
    "products": Switch(default=60, kind="int", doc="how many there are"),
    "random_seed": Switch(default=1, kind="int", doc="for customers, and at a reset for tokens"),
    "record_bytes": Switch(
        default=1500,
        kind="int",
        doc="about so long is a customer with loyalty and custom properties; 0 = not filled up",
    ),
    "without_id_every": _every(10, "one has no external id, only an e-mail"),
    "without_identity_every": _every(0, "one has neither id, e-mail nor phone"),
    "without_loyalty_every": _every(4, "one is no member: `loyalty` is null"),
    "shared_email_every": _every(50, "one has the e-mail of the one before"),
    "duplicate_every": _every(0, "one has the id and e-mail of the one before; 2 or more"),
    "far_names_every": _every(7, "one has a name in another script, with emoji"),
    "surrogate_every": _every(0, "one has half a character, `\\ud83d`, in the first name"),
    "odd_texts_every": _every(
        11, "one has texts like `null`, `NaN`, `1_000`, U+2028, and an e-mail with a capital"
    ),
    "big_records": Switch(default=[], kind="list", doc="numbers of customers that are very long"),
    "big_bytes": Switch(default=5_000_000, kind="int", doc="how long those are"),
    "version": Switch(
        default=0,
        kind="int",
        doc="points that `changed_every` have more: what changes between runs",
    ),
    "changed_every": _every(10, "one has more points when `version` is not 0"),
    "no_results": _choice("empty", "400", doc="how a page without records is told"),
    "extra_page": Switch(
        default=False,
        kind="flag",
        doc="the last page has a cursor too; a page without records is \
behind it",
    ),
    "last_next": _choice(
        "null",
        "absent",
        "empty",
        "no_pagination",
        "null_pagination",
        doc="what the last page has for a cursor",
    ),
    "cursor_strict": Switch(
        default=False, kind="flag", doc="only `limit` may stand beside `page_info`; else 400"
    ),
    "lie": _choice(
        "none",
        "loop_cursor",
        "repeat_page",
        "empty_page",
        "short_page",
        "truncated",
        "html",
        "null_body",
        "list_body",
        "no_customers",
        "null_customers",
        "object_customers",
        doc="the page `lie_page` names itself as the next, comes twice, comes empty before it "
        "comes whole, has half its records (the rest follow), is cut off, is HTML, or no page",
    ),
    "lie_page": Switch(default=2, kind="int", doc="the page that lies, counted from 1"),
    "lie_times": Switch(default=0, kind="int", doc="how often it lies; 0 = always"),
}

FAULTS: dict[str, str] = {
    "token_dies": "the token of this call is no longer valid, from this call on",
    "bad_cursor": "400 `invalid page_info`",
    "no_results": "400 `No results found`, whatever there is",
}
"""Faults of the API itself, for rules beside those of the wire."""
