"""Tokens: got once, renewed in time, never shown."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from dsync.auth import Auth
from dsync.errors import ContractBreach, DsyncError, Invalid, Unauthorized, Unavailable
from dsync.system import Auth as Spec

pytestmark = pytest.mark.unit

NOW = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)


class Hidden:
    """A credential as the configuration gives it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text


@dataclass
class Reply:
    """An answer of a token endpoint."""

    document: Any
    status: int = 200
    sent_at: datetime = NOW

    def json(self) -> Any:
        return self.document


@dataclass
class Endpoint:
    """A token endpoint: replies in order, the last one for ever; and what it was asked."""

    replies: list[Reply | DsyncError]
    asked: list[tuple[str, str, Any, Any, Mapping[str, str]]] = field(default_factory=list)

    async def __call__(
        self, method: str, path: str, *, body: Any, form: Any, headers: Mapping[str, str]
    ) -> Reply:
        self.asked.append((method, path, body, form, headers))
        await asyncio.sleep(0)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, DsyncError):
            raise reply
        return reply


EXCHANGE = {
    "kind": "exchange",
    "request": {"path": "auth", "body": {"id": "${client_id}", "secret": ["${client_secret}"]}},
    "token": "response.token",
    "expires": "response.validity",
}
CREDENTIALS = {"client_id": "demo", "client_secret": Hidden("hush")}
DIRECTOR = {
    "kind": "bearer",
    "renew": {
        "path": "refreshToken",
        "body": {"secretKey": "${secret_key}"},
        "token": "tokenDetails.token",
        "secret": "tokenDetails.secretKey",
    },
    "life_s": 28_800,
}


def token(text: Any, validity: Any = None) -> Reply:
    return Reply({"response": {"token": text, "validity": validity}})


def auth(
    spec: Mapping[str, Any],
    credentials: Mapping[str, object] = CREDENTIALS,
    *replies: Reply | DsyncError,
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[Auth, Endpoint]:
    endpoint = Endpoint(list(replies) or [token("t1")])
    return Auth(Spec.model_validate(spec), credentials, endpoint, clock=clock), endpoint


def shown(subject: Auth) -> dict[str, str]:
    return asyncio.run(subject.headers())[0]


# ---- what is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "credentials", "headers"),
    [
        ({"kind": "none"}, {}, {}),
        (
            {"kind": "basic"},
            {"username": "ü", "password": Hidden("p:w")},
            {"Authorization": "Basic " + b64encode("ü:p:w".encode()).decode()},
        ),
        ({"kind": "bearer"}, {"token": Hidden("t\n")}, {"Authorization": "Bearer t"}),
        ({"kind": "header", "header": "X-Key"}, {"token": "t"}, {"X-Key": "t"}),
        (
            {"kind": "header", "prefix": "TD1 "},
            {"token": "1/t"},
            {"Authorization": "TD1 1/t"},
        ),
        (EXCHANGE, CREDENTIALS, {"Authorization": "Bearer t1"}),
        ({**EXCHANGE, "header": "X-Token"}, CREDENTIALS, {"X-Token": "t1"}),
    ],
)
def test_each_kind_has_its_header(
    spec: dict[str, Any], credentials: dict[str, object], headers: dict[str, str]
) -> None:
    """None, basic, bearer, header and exchange prove who we are, each in its way."""
    assert shown(auth(spec, credentials)[0]) == headers


def test_credentials_fill_the_login() -> None:
    """`${name}` in the login's texts is a credential, wherever it stands."""
    subject, endpoint = auth(EXCHANGE)
    shown(subject)
    assert endpoint.asked == [("POST", "auth", {"id": "demo", "secret": ["hush"]}, None, {})]


def test_a_missing_credential_is_told_before_any_call() -> None:
    """What the system file needs and the connection lacks is named at once, without values."""
    with pytest.raises(Invalid, match="client_secret") as caught:
        auth(EXCHANGE, {"client_id": "demo"})
    assert caught.value.code == "DS-AUTH-CREDENTIAL"


def test_nothing_secret_in_a_repr() -> None:
    """`repr` shows the kind and nothing else."""
    subject, _ = auth({"kind": "bearer"}, {"token": "hush"})
    assert repr(subject) == "Auth(bearer)"


# ---- life --------------------------------------------------------------------------------------


def test_a_token_is_got_once_however_many_wait() -> None:
    """Twenty calls that start together make one login."""
    subject, endpoint = auth(EXCHANGE)

    async def main() -> None:
        got = await asyncio.gather(*(subject.headers() for _ in range(20)))
        assert all(headers == {"Authorization": "Bearer t1"} for headers, _ in got)

    asyncio.run(main())
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("validity", "life_s"),
    [
        (3600, 3600),
        ("3600", 3600),
        (NOW.timestamp() + 3600, 3600),
        (int(NOW.timestamp() + 3600) * 1000, 3600),
        ("2030-06-01T13:00:00Z", 3600),
        ("2030-06-01T13:00:00.1234567Z", 3600),
        ("2030-06-01T15:00:00+02:00", 3600),
        ("2030-06-01T13:00:00", 3600),
    ],
)
def test_a_token_is_renewed_shortly_before_it_dies(validity: Any, life_s: float) -> None:
    """All forms of an expiry are read, against the answer's own date; a minute before, we renew."""
    now = 0.0
    subject, endpoint = auth(
        EXCHANGE, CREDENTIALS, token("t1", validity), token("t2", validity), clock=lambda: now
    )

    async def main() -> None:
        nonlocal now
        assert (await subject.headers())[0]["Authorization"] == "Bearer t1"
        now = life_s - 61
        assert (await subject.headers())[0]["Authorization"] == "Bearer t1"
        now = life_s - 59
        assert (await subject.headers())[0]["Authorization"] == "Bearer t2"

    asyncio.run(main())
    assert len(endpoint.asked) == 2


def test_a_short_life_is_used_for_its_half() -> None:
    """A token that lives shorter than the margin is not renewed before each call."""
    subject, endpoint = auth(EXCHANGE, CREDENTIALS, token("t1", 10))

    async def main() -> None:
        for _ in range(5):
            await subject.headers()

    asyncio.run(main())
    assert len(endpoint.asked) == 1


def test_trouble_while_renewing_early_leaves_the_old_token() -> None:
    """While the old token lives, a login endpoint that is down stops nobody."""
    now = 0.0
    down = Unavailable("down", code="DS-HTTP-CONNECT")
    subject, _ = auth(EXCHANGE, CREDENTIALS, token("t1", 100), down, clock=lambda: now)

    async def main() -> None:
        nonlocal now
        await subject.headers()
        now = 60.0
        assert (await subject.headers())[0]["Authorization"] == "Bearer t1"
        now = 101.0
        with pytest.raises(Unavailable):
            await subject.headers()

    asyncio.run(main())


def test_one_renewal_after_many_refusals() -> None:
    """Calls that were refused with the same token renew it once, and all get the new one."""
    subject, endpoint = auth(EXCHANGE, CREDENTIALS, token("t1"), token("t2"))

    async def main() -> None:
        _, generation = await subject.headers()
        assert await asyncio.gather(*(subject.renew(generation) for _ in range(5))) == [True] * 5
        assert (await subject.headers())[0]["Authorization"] == "Bearer t2"

    asyncio.run(main())
    assert len(endpoint.asked) == 2


def test_a_bearer_token_is_renewed_by_its_secret() -> None:
    """Director's way: the secret key buys a new token and is itself replaced."""
    replies = [Reply({"tokenDetails": {"token": f"t{n}", "secretKey": f"s{n}"}}) for n in (2, 3)]
    subject, endpoint = auth(DIRECTOR, {"token": "t1", "secret_key": "s1"}, *replies)

    async def main() -> None:
        headers, generation = await subject.headers()
        assert headers == {"Authorization": "Bearer t1"}
        assert await subject.renew(generation)
        headers, generation = await subject.headers()
        assert headers == {"Authorization": "Bearer t2"}
        await subject.renew(generation)

    asyncio.run(main())
    assert [body for _, _, body, _, _ in endpoint.asked] == [
        {"secretKey": "s1"},
        {"secretKey": "s2"},
    ]


@pytest.mark.parametrize("spec", [{"kind": "bearer"}, DIRECTOR])
def test_what_cannot_be_renewed_is_said(spec: dict[str, Any]) -> None:
    """A token without a way or without a secret to renew it has no second life: its 401 stands."""
    subject, endpoint = auth(spec, {"token": "t"}, clock=iter(range(0, 10**6, 10_000)).__next__)

    async def main() -> None:
        _, generation = await subject.headers()
        assert not await subject.renew(generation)

    asyncio.run(main())
    assert endpoint.asked == []


def test_a_refused_login_is_not_tried_again() -> None:
    """Accounts get locked: after one refusal every call fails without asking."""
    subject, endpoint = auth(EXCHANGE, CREDENTIALS, Reply({}, status=401))

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(Unauthorized) as caught:
                await subject.headers()
            assert caught.value.code == "DS-AUTH-REFUSED"

    asyncio.run(main())
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        token(None),
        token(""),
        token(7),
        token("a\r\nX-Evil: 1"),
        token("ü"),
        Reply([]),
        token("t", 0),
        token("t", -5),
        token("t", "2030-06-01T11:00:00Z"),
        token("t", "2099-01-01T00:00:00Z"),
        token("t", "soon"),
        token("t", True),
    ],
)
def test_a_login_that_gives_no_good_token_is_a_breach(reply: Reply) -> None:
    """No token, one that no header can carry, or an expiry that is past or absurd is DS-AUTH."""
    subject, _ = auth(EXCHANGE, CREDENTIALS, reply)
    with pytest.raises(ContractBreach) as caught:
        shown(subject)
    assert caught.value.code == "DS-AUTH"
    assert "Evil" not in str(caught.value)


def test_a_bad_token_in_the_configuration_is_told_at_once() -> None:
    """A token that is empty, or has a line break inside, is a fault of the configuration."""
    for text in ("", " ", "a\r\nX: y"):
        with pytest.raises(Invalid) as caught:
            auth({"kind": "bearer"}, {"token": text})
        assert caught.value.code == "DS-AUTH-CREDENTIAL"
