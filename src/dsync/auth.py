"""Who we are to an API: the headers that prove it, and tokens got and renewed in time.

Credentials come from a connection, by name; request texts hold them as `${name}`. Nothing here
logs, shows or raises a credential or a token.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from dsync import jmes
from dsync.errors import ContractBreach, Invalid, Unauthorized, Unavailable

if TYPE_CHECKING:
    from dsync import system

_log = structlog.get_logger()

LONGEST_LIFE_S = 10 * 366 * 86400.0


class TokenAnswer(Protocol):
    """What auth needs of an HTTP answer."""

    @property
    def status(self) -> int: ...
    @property
    def sent_at(self) -> datetime: ...
    def json(self) -> Any: ...


class Call(Protocol):
    """Sends a login call, paced and retried, but without our headers."""

    def __call__(
        self,
        method: str,
        path: str,
        *,
        body: Any,
        form: Mapping[str, str] | None,
        headers: Mapping[str, str],
    ) -> Awaitable[TokenAnswer]: ...


_TOKENS: dict[tuple[object, ...] | None, tuple[str, float, float | None]] = {}
"""Tokens of this process: never written anywhere."""


class Auth:
    """The proof of one connection. Any number of calls may share it.

    Tokens are got when first needed, by one call however many wait; renewed shortly before they
    die, and once after a 401. A refused login is not tried again: accounts get locked. Without the
    credentials of `renew`, a token is used as long as it lives.

    `place` is where the tokens are good: with the same credentials, what one of this process got by
    a call serves the others, too.

    Raises: Invalid DS-AUTH-CREDENTIAL when a credential that `spec` needs is missing.
    """

    def __init__(
        self,
        spec: system.Auth,
        credentials: Mapping[str, object],
        call: Call,
        *,
        clock: Callable[[], float] = time.monotonic,
        place: str = "",
    ) -> None:
        self._credentials = dict(credentials)
        self._spec, self._call, self._clock = self._possible(spec), call, clock
        self._token: str | None = None
        self._dies_at: float | None = None
        self._got_at = 0.0
        self._generation = 0
        self._refused: Unauthorized | None = None
        self._one_at_a_time = asyncio.Lock()
        self._check()
        self._drawer = self._drawer_of(place) if place and spec.kind == "exchange" else None
        can_renew = spec.renew is not None and not _needed(spec.renew) - credentials.keys()
        self._renewal = spec.renew if can_renew else None
        if spec.kind in ("bearer", "header"):
            try:
                self._keep(_header_safe(self._reveal("token")), None)
            except ContractBreach:
                raise Invalid(
                    "the credential `token` is empty, or holds characters no header can carry",
                    code="DS-AUTH-CREDENTIAL",
                    hint="check where the connection's `credentials` take it from",
                ) from None

    def __repr__(self) -> str:
        return f"Auth({self._spec.kind})"

    def _drawer_of(self, place: str) -> tuple[object, ...]:
        """Under what a token is kept: nothing else may ever use it."""
        digest = hashlib.sha256()
        for name in sorted(self._credentials):
            digest.update(f"{name}={self._reveal(name)}\0".encode())
        return (place, repr(self._spec), digest.digest(), self._clock)

    async def headers(self) -> tuple[dict[str, str], int]:
        """The headers of the next call, and the generation of the proof (for `renew`).

        Raises: Unauthorized, Unavailable, ContractBreach DS-AUTH.
        """
        match self._spec.kind:
            case "none":
                return {}, 0
            case "basic":
                pair = f"{self._reveal('username')}:{self._reveal('password')}"
                return {self._spec.header: "Basic " + b64encode(pair.encode()).decode()}, 0
        if self._is_due():
            await self._renew_early()
        assert self._token is not None  # noqa: S101 - _renew_early raises otherwise
        return {self._spec.header: self._prefix + self._token}, self._generation

    async def renew(self, generation: int) -> bool:
        """After a 401 for a call with the proof `generation`: True when there is a newer one now.

        Raises: Unauthorized, Unavailable, ContractBreach DS-AUTH.
        """
        if self._spec.kind != "exchange" and self._renewal is None:
            return False
        async with self._one_at_a_time:
            if self._generation == generation:
                await self._exchange()
        return True

    @property
    def _prefix(self) -> str:
        if self._spec.prefix is not None:
            return self._spec.prefix
        standard = self._spec.kind != "header" and self._spec.header.lower() == "authorization"
        return "Bearer " if standard else ""

    def _is_due(self) -> bool:
        if self._token is None and self._drawer in _TOKENS:
            self._token, self._got_at, self._dies_at = _TOKENS[self._drawer]
            self._generation += 1
        if self._token is None:
            return True
        if self._dies_at is None or (self._spec.kind != "exchange" and not self._renewal):
            return False
        # A token that lives shorter than the margin would be renewed before each call.
        margin = min(self._spec.renew_before_s, (self._dies_at - self._got_at) / 2)
        return self._clock() >= self._dies_at - margin

    async def _renew_early(self) -> None:
        async with self._one_at_a_time:
            if not self._is_due():
                return
            try:
                await self._exchange()
            except Unavailable:
                # The old token may well outlive the trouble.
                alive = self._dies_at is not None and self._clock() < self._dies_at
                if self._token is None or not alive:
                    raise

    async def _exchange(self) -> None:
        if self._refused is not None:
            raise self._refused
        spec = self._spec
        try:
            if self._renewal is not None and self._token is not None:
                try:
                    return await self._renew_with_secret(self._renewal)
                except Unauthorized:
                    if spec.request is None:
                        raise
            assert spec.request is not None  # noqa: S101 - _check has seen to it
            await self._log_in(spec.request, spec.token or "token")
        except Unauthorized as fault:
            self._refused = fault
            raise

    async def _log_in(self, request: system.Request, where: str) -> None:
        document, sent_at = await self._ask(request)
        self._keep(self._found(where, document), self._life_s(document, sent_at))

    async def _renew_with_secret(self, renewal: system.Renewal) -> None:
        document, sent_at = await self._ask(renewal)
        token = self._found(renewal.token, document)
        if renewal.secret is not None:
            self._credentials[renewal.credential] = self._found(renewal.secret, document)
        self._keep(token, self._life_s(document, sent_at))

    async def _ask(self, request: system.Request) -> tuple[Any, datetime]:
        answer = await self._call(
            request.method,
            request.path,
            body=self._filled(request.body),
            form=self._filled(request.form),
            headers=self._filled(request.headers),
        )
        if 400 <= answer.status < 500:
            raise Unauthorized(
                f"the API refused our credentials ({answer.status})",
                code="DS-AUTH-REFUSED",
                hint="check the connection's credentials, and that they have not expired",
            )
        if not 200 <= answer.status < 300:
            raise Unavailable(
                f"the API gave no token (status {answer.status})",
                code="DS-AUTH",
                hint="try again later",
            )
        return answer.json(), answer.sent_at

    def _keep(self, token: str, life_s: float | None) -> None:
        self._token = token
        self._got_at = self._clock()
        life_s = life_s if life_s is not None else self._spec.life_s
        self._dies_at = None if life_s is None else self._got_at + life_s
        self._generation += 1
        if self._drawer is not None:
            _TOKENS[self._drawer] = (token, self._got_at, self._dies_at)
        if self._generation > 1 or self._spec.kind == "exchange":
            # The first one is what everybody expects; a renewal tells how long a run has taken.
            tell = _log.info if self._generation > 1 else _log.debug
            tell("token got", life_s=life_s and round(life_s))

    def _found(self, where: str, document: Any) -> str:
        token = _search(where, document)
        if not isinstance(token, str) or not token:
            raise _breach("no token is where the system file says", where)
        return _header_safe(token)

    def _life_s(self, document: Any, sent_at: datetime) -> float | None:
        if self._spec.expires is None:
            return None
        told = _search(self._spec.expires, document)
        if told is None:
            return None
        life_s = _life_s(told, sent_at)
        if life_s is None or not 0 < life_s <= LONGEST_LIFE_S:
            raise _breach("the token's expiry is past or absurd", self._spec.expires)
        return life_s

    def _filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return _CREDENTIAL.sub(lambda match: self._reveal(match[1]), value)
        if isinstance(value, Mapping):
            return {key: self._filled(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._filled(item) for item in value]
        return value

    def _reveal(self, name: str) -> str:
        value = self._credentials[name]
        reveal = getattr(value, "reveal", None)
        return str(reveal() if callable(reveal) else value)

    def _possible(self, spec: system.Auth) -> system.Auth:
        """A token that is given serves without the secret that would renew it, while it lives."""
        renewal = spec.renew
        if spec.kind == "exchange" or renewal is None:
            return spec
        needed = _names(renewal.body) | _names(renewal.form) | _names(renewal.headers)
        if needed <= self._credentials.keys():
            return spec
        return spec.model_copy(update={"renew": None})

    def _check(self) -> None:
        spec = self._spec
        needed: set[str] = set()
        match spec.kind:
            case "basic":
                needed |= {"username", "password"}
            case "bearer" | "header":
                needed.add("token")
            case "exchange" if spec.request is None:
                raise Invalid(
                    "auth of kind exchange has no `request`",
                    code="DS-AUTH-SPEC",
                    hint="say with `request` how a token is got, and with `token` where it is",
                )
        if spec.request is not None:
            needed |= _needed(spec.request)
        missing = sorted(needed - self._credentials.keys())
        if missing:
            raise Invalid(
                f"the connection lacks the credentials: {', '.join(missing)}",
                code="DS-AUTH-CREDENTIAL",
                hint="put them into the connection's `credentials`, as ${env:NAME} or ${file:PATH}",
            )


_CREDENTIAL = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


def _needed(request: system.Request) -> set[str]:
    return _names(request.body) | _names(request.form) | _names(request.headers)


def _names(value: Any) -> set[str]:
    if isinstance(value, str):
        return set(_CREDENTIAL.findall(value))
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return set().union(*(_names(item) for item in value)) if value else set()
    return set()


def _search(expression: str, document: Any) -> Any:
    try:
        return jmes.compiled(expression).search(document)
    except jmes.JMESPathError:
        return None


def _header_safe(token: str) -> str:
    # A file's last line break is no part of a token; any other would begin a new header.
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise _breach("the token holds characters that no header can carry", "token")
    return token


def _breach(message: str, where: str) -> ContractBreach:
    return ContractBreach(
        message, code="DS-AUTH", where=f"auth {where}", hint="check `auth` in the system file"
    )


def _life_s(told: Any, sent_at: datetime) -> float | None:
    """Seconds from `sent_at` on: of a number of seconds, an epoch time, or an ISO 8601 time."""
    if isinstance(told, bool):
        return None
    if isinstance(told, str) and re.fullmatch(r"\d{1,15}(\.\d{1,9})?", told.strip()):
        told = float(told)
    if isinstance(told, int | float):
        if told > 1e11:  # epoch in milliseconds
            told = told / 1000
        return told - sent_at.timestamp() if told > LONGEST_LIFE_S else float(told)
    if not isinstance(told, str):
        return None
    # Some APIs give seven digits of a second; Python reads six.
    text = re.sub(r"(\.\d{6})\d+", r"\1", told.strip())
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - sent_at).total_seconds()
