"""What each fault of the wire is told as, by the HTTP library that is installed.

These are facts about a dependency, not wishes: when one changes, the rules for what may be sent
again have to be looked at again. Each row is a POST that creates a record; the server's ledger
tells whether it was created.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dsync import emulators
from dsync.emulators import Emulator, listeners
from dsync.errors import ContractBreach
from dsync.http import Answer, Client, NotSent, Unclear, Untrusted

pytestmark = pytest.mark.integration

LOST, LATE, EMPTY = "DS-HTTP-LOST", "DS-HTTP-TIMEOUT", "DS-HTTP-EMPTY"
PATIENCE_S = 0.25


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with emulators.start("plain") as emulator:
        yield emulator


@pytest.fixture
def plain(running: Emulator) -> Emulator:
    running.reset()
    return running


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the client heard: `answer` with a status, or the name of an error; and its code."""

    kind: str
    code: str = ""
    """of the error, or of what is wrong with the body"""
    status: int | None = None


def ask(
    url: str,
    *,
    patience_s: float = 10.0,
    connect_s: float = 10.0,
    method: str = "POST",
    **settings: Any,
) -> Told:
    """One call, and one before it where `warm` is asked for."""
    warm = settings.pop("warm", False)

    async def run() -> Told:
        async with Client(url, connect_s=connect_s, read_s=patience_s, **settings) as client:
            if warm:
                await client.request("GET", "api/warm", template="api/warm")
            path = "api/things/1" if method in ("PUT", "DELETE", "GET") else "api/things"
            try:
                body = {"name": "one", "text": "x" * 200} if method in ("POST", "PUT") else None
                answer = await client.request(method, path, template=path, body=body)
            except (NotSent, Untrusted, Unclear) as error:
                return Told(kind=type(error).__name__, code=error.code)
            return Told(kind="answer", code=_wrong(answer), status=answer.status)

    return asyncio.run(run())


def _wrong(answer: Answer) -> str:
    try:
        answer.json()
    except ContractBreach as breach:
        return breach.code
    return ""


def unclear(code: str) -> Told:
    return Told(kind="Unclear", code=code)


def good(status: int = 201, code: str = "") -> Told:
    return Told(kind="answer", status=status, code=code)


# ---- the call has left: fault, what the client is told, effects at the server ------------------

FACTS: list[tuple[dict[str, Any], Told, int]] = [
    ({"fault": "reset", "when": "before_read"}, unclear(LOST), 0),
    ({"fault": "reset", "when": "before"}, unclear(LOST), 0),
    ({"fault": "reset", "when": "after"}, unclear(LOST), 1),  # the same words as without effect
    ({"fault": "close", "when": "before"}, unclear(LOST), 0),
    ({"fault": "close", "when": "after"}, unclear(LOST), 1),
    ({"fault": "timeout", "when": "before"}, unclear(LATE), 0),
    ({"fault": "timeout", "when": "after"}, unclear(LATE), 1),
    ({"fault": "late_commit", "after_s": 0.4}, unclear(LATE), 1),
    ({"fault": "drip", "bytes": 1, "every_s": 0.05}, unclear(LATE), 1),  # each piece is in time
    ({"fault": "delay", "delay_s": 0.05}, good(), 1),
    ({"fault": "cut_body"}, unclear(LOST), 1),
    ({"fault": "cut_chunk"}, unclear(LOST), 1),
    ({"fault": "truncated_json"}, good(code="DS-HTTP-JSON"), 1),
    ({"fault": "body", "body": "{nope", "when": "after"}, good(code="DS-HTTP-JSON"), 1),
    ({"fault": "html", "when": "after"}, good(200, "DS-HTTP-HTML"), 1),
    ({"fault": "html", "status": 502, "when": "after"}, good(502, "DS-HTTP-HTML"), 1),
    ({"fault": "empty", "when": "after"}, good(code="DS-HTTP-EMPTY"), 1),
    ({"fault": "no_content", "when": "after"}, good(204, "DS-HTTP-EMPTY"), 1),
    ({"fault": "content_type"}, good(), 1),
    ({"fault": "bad_gzip"}, unclear("DS-HTTP-ENCODING"), 1),
    ({"fault": "gzip_bomb", "size_mb": 32}, unclear("DS-HTTP-SIZE"), 1),
    ({"fault": "big_body", "size_mb": 20}, unclear("DS-HTTP-SIZE"), 1),
    ({"fault": "headers", "count": 5000}, unclear("DS-HTTP-HEADERS"), 1),
    ({"fault": "headers", "count": 1, "size": 90_000}, unclear("DS-HTTP-HEADERS"), 1),
    ({"fault": "headers", "count": 1, "size": 1 << 20}, unclear(LOST), 1),  # the library's limit
    ({"fault": "garbage", "when": "after"}, unclear(LOST), 1),
    ({"fault": "info_flood"}, good(), 1),  # skipped, however many
    ({"fault": "deep_json"}, good(code="DS-HTTP-JSON"), 1),
    ({"fault": "duplicate_keys"}, good(code="DS-HTTP-JSON"), 1),
    ({"fault": "nan"}, good(code="DS-HTTP-JSON"), 1),
    ({"fault": "utf16"}, good(code="DS-HTTP-JSON"), 1),
    ({"fault": "redirect", "status": 307, "location": "/api/things"}, good(307, EMPTY), 0),
    ({"fault": "redirect", "status": 302, "location": "http://203.0.113.9/"}, good(302, EMPTY), 0),
]


def _name(fact: dict[str, Any]) -> str:
    return " ".join(str(part) for part in fact.values())


@pytest.mark.parametrize(("fault", "told", "effects"), FACTS, ids=[_name(f[0]) for f in FACTS])
def test_what_a_fault_is_told_as(
    plain: Emulator, fault: dict[str, Any], told: Told, effects: int
) -> None:
    """One call leaves, and what comes back is told as the table says, whatever happened there."""
    plain.faults([{"match": {}, **fault}])
    patience_s = PATIENCE_S if told.code == LATE else 10.0
    assert ask(plain.url, patience_s=patience_s) == told
    deadline = time.monotonic() + 5
    while len(plain.effects()) < effects and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(plain.effects()) == effects
    assert plain.counts()["total"] == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
def test_a_reset_on_a_reused_connection_is_told_once(plain: Emulator, method: str) -> None:
    """A connection that had an answer before and is reset after the effect: no second call."""
    plain.seed({"collection": "things", "objects": [{"name": "old"}]})
    plain.faults([{"match": {"reused": True}, "fault": "reset", "when": "after"}])
    assert ask(plain.url, method=method, warm=True) == unclear(LOST)
    calls = plain.ledger()
    assert [call["method"] for call in calls] == ["GET", method]
    assert calls[1]["on_connection"] == 2
    assert len(plain.effects()) == (0 if method == "GET" else 1)


# ---- the call has not left ---------------------------------------------------------------------


@contextlib.contextmanager
def _unknown_host() -> Iterator[str]:
    yield listeners.UNKNOWN_HOST


@pytest.mark.parametrize(
    "listener",
    [_unknown_host, listeners.refused, listeners.silent],
    ids=["no such host", "refused", "never accepted"],
)
def test_no_connection_is_not_sent(listener: Any) -> None:
    """DNS, a closed port and a full one: no byte of the call left."""
    with listener() as url:
        patience_s = PATIENCE_S if listener is listeners.silent else 10.0
        assert ask(url, connect_s=patience_s) == Told(kind="NotSent", code="DS-HTTP-CONNECT")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("self_signed", Told(kind="Untrusted", code="DS-TLS")),
        ("unknown_issuer", Told(kind="Untrusted", code="DS-TLS")),
        ("wrong_host", Told(kind="Untrusted", code="DS-TLS")),
        ("expired", Told(kind="Untrusted", code="DS-TLS")),
        ("no_tls", Told(kind="NotSent", code="DS-HTTP-CONNECT")),
        ("good", good(200)),
    ],
)
def test_what_a_certificate_is_told_as(kind: str, told: Told) -> None:
    """A bad certificate is told apart from a bad connection, and no call gets through it."""
    with listeners.tls(kind) as listener:
        assert ask(listener.url, ca_file=str(listener.ca_file)) == told
        assert listener.requests == (1 if kind == "good" else 0)


def test_a_reset_in_the_handshake_is_not_sent() -> None:
    """The handshake failed, so no byte of the call left."""
    with listeners.reset_in_handshake() as listener:
        assert ask(listener.url) == Told(kind="NotSent", code="DS-HTTP-CONNECT")
