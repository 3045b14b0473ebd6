"""Calls to Treasure Data's REST API: paced, read again when they fail, effects settled by looking.

    see      GET: asked again until the answer is whole; None for what is not there
    send     PUT: the same bytes under the same name, so it may be sent again
    make     POST: after any doubt or refusal its `done` looks whether the effect is there, and only
             where it is not the call goes again

Source: Treasure Data's API reference and its clients; last seen 2026-11-21, on the emulator only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from dsync import secrets
from dsync.errors import ContractBreach, Invalid, Unauthorized, Unavailable
from dsync.http import Answer, Client, NotSent, Unclear, excerpt, render_path
from dsync.pace import Pace
from dsync.quota import Kind
from dsync.system import Limits
from dsync.warehouses import Site

_log = structlog.get_logger()

REGIONS = {
    "us": "https://api.treasuredata.com",
    "tokyo": "https://api.treasuredata.co.jp",
    "ap01": "https://api.treasuredata.co.jp",
    "eu01": "https://api.eu01.treasuredata.com",
    "korea": "https://api.ap02.treasuredata.com",
    "ap02": "https://api.ap02.treasuredata.com",
    "ap03": "https://api.ap03.treasuredata.com",
}
UPLOAD_S = 600.0
"""The longest that one call may take: a part of 16 MB on a slow line."""
THROTTLED_TRIES = 10
_AGAIN = frozenset({408, 500, 502, 503, 504})


class Declined(Unavailable):
    """The API said no, and the effect is not there. `status` is what it said no with."""

    def __init__(self, message: str, *, code: str, hint: str, status: int) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status


class Calls:
    """One account, as one key sees it.

    Raises: Invalid DS-TD-REGION, DS-TD-KEY, DS-URL-BASE, DS-TLS-CA.
    """

    def __init__(self, site: Site) -> None:
        url = _base_url(site)
        limits = Limits(concurrency=4)
        self._retries = site.retries
        self._client = Client(
            url,
            verify_tls=site.verify_tls,
            ca_file=site.ca_file,
            headers={**site.headers, "authorization": f"TD1 {_key(site)}"},
            connections=site.concurrency or limits.concurrency,
            read_s=site.timeout_s,
            total_s=max(UPLOAD_S, 2 * site.timeout_s),
        )
        self._pace = Pace(
            limits,
            rate=site.rate,
            burst=site.burst,
            concurrency=site.concurrency,
            shared=_shared(site.shared, url),
            call_s=UPLOAD_S,
        )

    @property
    def origin(self) -> str:
        """Scheme and host, for messages."""
        return self._client.origin

    async def close(self) -> None:
        """Give up all connections."""
        self._pace.close()
        await self._client.close()

    async def wait(self, seconds: float) -> None:
        """Sleep by the pace's clock."""
        await self._pace.wait(seconds)

    async def see(self, path: str, **values: str) -> dict[str, Any] | None:
        """The JSON object that a GET gives; None for 404.

        Raises: Unavailable, Unauthorized.
        """
        for attempt in count(1):
            try:
                answer = await self._asked("GET", path, values)
                if answer.status == 404:
                    return None
                if answer.status != 200:
                    raise self._declined(answer)
                return _object(answer)
            except Unavailable as fault:
                await self._again(fault, attempt)
        raise AssertionError("unreachable")

    async def fetch(self, path: str, *, max_bytes: int, **values: str) -> bytes:
        """The bytes that a GET gives. Raises: Unavailable, Unauthorized."""
        for attempt in count(1):
            try:
                answer = await self._asked("GET", path, values, max_bytes=max_bytes)
                if answer.status != 200:
                    raise self._declined(answer)
                return answer.body
            except Unavailable as fault:
                await self._again(fault, attempt)
        raise AssertionError("unreachable")

    async def send(self, path: str, body: bytes, **values: str) -> None:
        """PUT these bytes under this name; again, until it is known that they came.

        Raises: Declined, Unavailable, Unauthorized.
        """
        for attempt in count(1):
            try:
                answer = await self._asked("PUT", path, values, body=body)
                if answer.status != 200:
                    raise self._declined(answer)
                _object(answer)
                return
            except Unavailable as fault:
                await self._again(fault, attempt)

    async def make(
        self,
        path: str,
        *,
        done: Callable[[], Awaitable[bool]],
        form: Mapping[str, str] | None = None,
        once: bool = False,
        **values: str,
    ) -> dict[str, Any]:
        """POST until the effect is there; what was answered, or nothing when a look told it.

        `once`: after a doubt it does not go again, although the look finds no effect.

        Raises: Declined, Unavailable, Unauthorized.
        """
        for attempt in count(1):
            try:
                answer = await self._asked("POST", path, values, form=form)
                if answer.status != 200:
                    raise self._declined(answer)
                return _object(answer)
            except NotSent as fault:
                await self._again(fault, attempt)
            except Unavailable as fault:
                _log.info("looking what became of a call", path=path, why=fault.code)
                if await done():
                    return {}
                if once:
                    raise
                await self._again(fault, attempt)
        raise AssertionError("unreachable")

    async def _asked(
        self,
        method: str,
        path: str,
        values: Mapping[str, str],
        *,
        body: bytes | None = None,
        form: Mapping[str, str] | None = None,
        max_bytes: int = 16 << 20,
    ) -> Answer:
        """One call; a 429 had no effect, and goes again after the wait that it asks for.

        Raises: NotSent, Unclear, Untrusted, Unauthorized.
        """
        kind: Kind = "read" if method == "GET" else "write"
        target = render_path(f"v3/{path}", values)
        for throttled in count(1):
            async with self._pace.slot(kind):
                try:
                    answer = await self._client.request(
                        method,
                        target,
                        template=f"/v3/{path}",
                        body=body,
                        form=form,
                        headers={} if body is None else {"content-type": _BYTES},
                        max_bytes=max_bytes,
                        on_send=self._pace.left,
                    )
                except (NotSent, Unclear):
                    self._pace.failed()
                    raise
            self._pace.heard(answer.headers, answer.sent_at)
            if answer.status == 429 and self._retries and throttled <= THROTTLED_TRIES:
                self._pace.throttled(answer.headers, answer.sent_at, throttled)
                continue
            if answer.status >= 500:
                self._pace.failed()
            else:
                self._pace.worked()
            if answer.status == 200:
                self._pace.succeeded()
            if answer.status in (401, 403):
                raise self._unauthorized(answer)
            return answer
        raise AssertionError("unreachable")

    async def _again(self, fault: Unavailable, attempt: int) -> None:
        """Wait before the next attempt, where one may help. Raises: the fault."""
        if isinstance(fault, Declined):
            may = fault.status in _AGAIN
        elif isinstance(fault, Unclear):
            may = fault.again
        else:
            may = isinstance(fault, NotSent) or fault.code.startswith("DS-HTTP-")
        if not may or attempt > self._retries or not self._pace.budget.spend():
            raise fault
        wait_s = self._pace.backoff(attempt)
        _log.warning("trying again", why=fault.code, attempt=attempt + 1, wait_s=round(wait_s, 2))
        await self._pace.wait(wait_s)

    def _declined(self, answer: Answer) -> Declined:
        said = f"{answer.what}: status {answer.status}, {_said(answer)}"
        if answer.status >= 500:
            return Declined(
                said,
                code="DS-TD-DOWN",
                hint="Treasure Data has a fault; `dsync resume` goes on when it is over",
                status=answer.status,
            )
        return Declined(
            said,
            code="DS-TD-REFUSED",
            hint="see what it says; when that is mended, `dsync resume` goes on",
            status=answer.status,
        )

    def _unauthorized(self, answer: Answer) -> Unauthorized:
        if answer.status == 401:
            return Unauthorized(
                f"{self.origin} does not know this key: {_said(answer)}",
                code="DS-TD-KEY",
                hint="check `credentials.key` (account/40 hex digits), and that `region` or"
                " `base_url` is the key's own: a key holds in one region only",
            )
        return Unauthorized(
            f"{answer.what}: this key may not do that: {_said(answer)}",
            code="DS-TD-FORBIDDEN",
            hint="a write-only key can append to a table that is there; the rest needs a full key",
        )


_BYTES = "application/octet-stream"


def _base_url(site: Site) -> str:
    if site.base_url:
        return site.base_url
    region = site.region or "us"
    if region.lower() not in REGIONS:
        raise Invalid(
            f"Treasure Data has no region {region!r}",
            code="DS-TD-REGION",
            where=site.place,
            hint=f"write one of {', '.join(REGIONS)}, or a `base_url`",
        )
    return REGIONS[region.lower()]


def _key(site: Site) -> str:
    if "key" not in site.credentials:
        raise Invalid(
            f"the connection `{site.connection}` has no credential `key`",
            code="DS-TD-KEY",
            where=site.place,
            hint=f"add connections.{site.connection}.credentials.key: ${{env:TD_API_KEY}}",
        )
    return site.credentials["key"].reveal()


def _shared(folder: Path | None, url: str) -> Path | None:
    if folder is None:
        return None
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.db"


def _object(answer: Answer) -> dict[str, Any]:
    found = answer.json()
    if not isinstance(found, dict):
        raise ContractBreach(
            f"{answer.what}: the answer is no JSON object",
            code="DS-HTTP-JSON",
            hint="check the base URL",
        )
    return found


def _said(answer: Answer) -> str:
    """What the API says of it, in its own words."""
    if answer.is_html:
        return "a page of HTML; check the region or base URL"
    try:
        found = answer.json()
    except ContractBreach:
        found = None
    text = ""
    if isinstance(found, dict):
        text = str(found.get("message") or found.get("text") or found.get("error") or "")
    return excerpt(
        text or answer.body.decode("utf-8", "replace") or "nothing more",
        limit=300,
        redact=lambda said: str(secrets.redact(said)),
    )
