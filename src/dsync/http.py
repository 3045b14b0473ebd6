"""All HTTP: one origin, one call at a time, and every failure told by how far the call came.

The only module that imports the HTTP library, and it uses the library's transport, not its client:
so there are no redirects, no cookies, no netrc, no proxies from the environment and no retries to
switch off. Three things can go wrong, and a writer must tell them apart:

    NotSent     no byte of the call left: it may be sent again
    Untrusted   the certificate is not good: stop
    Unclear     the call left, and its answer did not come whole: nobody knows

An answer that came whole is an `Answer`, whatever its status says.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import quote, urlencode, urljoin, urlsplit

import httpx2
import msgspec
import structlog

from dsync.errors import ContractBreach, Invalid, StorageFault, Unavailable
from dsync.pace import http_date

_log = structlog.get_logger()

BODY_BYTES = 16 << 20
LIST_BYTES = 64 << 20
HEADER_BYTES = 64 << 10
HEADER_LINES = 200
JSON_DEPTH = 64

# A server that closes an idle connection races with our next call on it, and a reset then looks
# the same before and after the effect. So no connection older than this is used again.
IDLE_S = 2.0


class NotSent(Unavailable):
    """No byte of the call left: DNS, connect, TLS handshake, no free connection."""


class Untrusted(Unavailable):
    """The server's certificate is not good; asking again does not help."""


class Unclear(Unavailable):
    """The call left, and no whole answer came back.

    `again` is False where even a read gains nothing by asking again.
    """

    def __init__(self, message: str, *, code: str, hint: str | None = None, again: bool = True):
        super().__init__(message, code=code, hint=hint)
        self.again = again


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One whole answer. Header names are in lower case; a repeated one is joined by `, `."""

    method: str
    template: str
    target: str = field(repr=False)
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    received_at: datetime
    elapsed_s: float

    @property
    def what(self) -> str:
        """The call, for messages: method and template, never values."""
        return f"{self.method} {self.template}"

    @property
    def sent_at(self) -> datetime:
        """The server's clock (`Date`), else ours."""
        return http_date(self.headers.get("date", "")) or self.received_at

    @property
    def is_html(self) -> bool:
        """True for a page made for people: a login form, a gateway's error."""
        return self.body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")

    def json(self) -> Any:
        """The body as JSON, read strictly.

        Raises: ContractBreach DS-HTTP-EMPTY, DS-HTTP-HTML or DS-HTTP-JSON.
        """
        return decode_json(self.body, what=self.what)


class Client:
    """Calls to one origin. `base_url` may have a path: relative paths go below it.

    Time-outs in seconds: `connect_s`, `pool_s` for a free connection, 30 for a write, `read_s`
    between two pieces of the answer, and `total_s` for the call as a whole (2 x `read_s` unless
    given: a server that drips one byte a second never meets `read_s`).

    Raises: Invalid when the base URL, a header or the CA file is not good.
    """

    def __init__(
        self,
        base_url: str,
        *,
        verify_tls: bool = True,
        ca_file: str | None = None,
        headers: Mapping[str, str] | None = None,
        connections: int = 4,
        read_s: float = 30.0,
        total_s: float | None = None,
        connect_s: float = 10.0,
        pool_s: float = 10.0,
    ) -> None:
        self._origin, self._prefix = _base(base_url)
        self._url = httpx2.URL(self._origin)
        self._headers = dict(headers or {})
        _check_headers(self._headers)
        self._timeout = {"connect": connect_s, "pool": pool_s, "write": 30.0, "read": read_s}
        self._total_s = total_s if total_s is not None else 2 * read_s
        self._transport = httpx2.AsyncHTTPTransport(
            verify=_tls(self._origin, verify_tls, ca_file),
            trust_env=False,
            http2=False,
            retries=0,
            limits=httpx2.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=IDLE_S,
            ),
        )

    def __repr__(self) -> str:
        return f"Client({self._origin}{self._prefix})"

    @property
    def prefix(self) -> str:
        """The path of the base URL, with `/` at both ends."""
        return self._prefix

    @property
    def origin(self) -> str:
        """Scheme, host and port, as in `https://director.example.test:8443`."""
        return self._origin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up all connections."""
        await self._transport.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        template: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = BODY_BYTES,
        on_send: Callable[[], None] | None = None,
    ) -> Answer:
        """Send one call and read its whole answer. Nothing is sent twice.

        `path` is already percent-encoded: relative to the base URL, or, with a leading `/`, from
        the root of the origin (as `locate` gives it). `template` stands for it in messages.
        `body` (None: none) is sent as JSON, bytes as they are, `form` as a form. `on_send` is
        called when the first byte is about to leave; what it raises keeps the call from leaving.

        Raises: Invalid, NotSent, Untrusted, Unclear.
        """
        target = ("" if path.startswith("/") else self._prefix) + _checked(path)
        if query:
            target += ("&" if "?" in target else "?") + urlencode(query)
        request = self._build(method, body, form, headers)
        sent = _Sent(on_send)
        # Given as `target`, it goes out as it is: the library's own URLs normalise.
        request.extensions = {
            "timeout": self._timeout,
            "trace": sent,
            "target": target.encode("ascii"),
        }
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._total_s):
                response = await self._transport.handle_async_request(request)
                try:
                    fields = _head(response)
                    content = await _read(response, max_bytes)
                finally:
                    await response.aclose()
        except Unclear as fault:
            raise _named(fault, f"{method} {template}") from None
        except StorageFault:
            raise
        except Exception as error:  # the library's errors, and whatever else a socket may raise
            raise _failure(error, f"{method} {template} at {self._origin}", sent.yet) from error
        answer = Answer(
            method=method,
            template=template,
            target=target,
            status=response.status_code,
            headers=fields,
            body=content,
            received_at=datetime.now(UTC),
            elapsed_s=time.monotonic() - began,
        )
        _log.debug(
            "called",
            method=method,
            path=template,
            status=answer.status,
            ms=round(answer.elapsed_s * 1000, 1),
        )
        return answer

    def locate(self, url: str, *, seen_at: Answer | None = None) -> str:
        """The target (`/path?query`) of a URL or path that an answer gave, for `request`.

        A relative one is read as browsers do when `seen_at` is given, else below the base URL,
        leading slashes dropped.

        Raises: ContractBreach DS-URL-ORIGIN when it would leave the origin, or hides where it goes.
        """
        if _ODD.search(url):
            raise _astray("it holds a backslash, a blank or a control character")
        if seen_at is not None:
            url = urljoin(self._origin + seen_at.target, url)
        try:
            parts = urlsplit(url)
            user, origin = parts.username, _origin_of(parts.scheme, parts.hostname, parts.port)
        except ValueError:
            raise _astray("it is not a URL") from None
        if parts.scheme or parts.netloc:
            if user is not None or "@" in parts.netloc or origin != self._origin:
                raise _astray(f"it does not stay at {self._origin}")
            path = parts.path or "/"
        else:
            path = self._prefix + parts.path.lstrip("/")
        # Brackets and the like come unencoded in many a `next` link.
        query = quote(parts.query, safe="%-._~!$&'()*+,;=:@/?")
        target = path + (f"?{query}" if query else "")
        try:
            return _checked(target)
        except Invalid as fault:
            raise _astray(fault.message) from None

    def _build(
        self,
        method: str,
        body: Any,
        form: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> httpx2.Request:
        fields = {
            "accept": "application/json",
            "accept-encoding": "gzip, deflate",
            "user-agent": "directorsync",
        }
        fields |= {name.lower(): text for name, text in self._headers.items()}
        content: bytes | None = None
        if form is not None:
            content = urlencode(form).encode()
            fields["content-type"] = "application/x-www-form-urlencoded"
        elif body is not None:
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            fields["content-type"] = "application/json"
        if headers:
            _check_headers(headers)
            fields |= {name.lower(): text for name, text in headers.items()}
        return httpx2.Request(method, self._url, headers=fields, content=content)


# ---- paths -------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TARGET = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*")
_ODD = re.compile(r"[\\\s\x00-\x1f\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ue000\ue001]")
_DOTS = re.compile(r"(\.|%2e){1,2}", re.IGNORECASE)


def placeholders(template: str) -> list[str]:
    """The names in a template's `{placeholders}`, in order."""
    return _PLACEHOLDER.findall(template)


def render_path(template: str, values: Mapping[str, Any]) -> str:
    """`template` with each `{placeholder}` replaced by its value, as one percent-encoded segment.

    Raises: Invalid DS-TPL for a placeholder without a value or a brace without its partner;
    DS-URL-SEGMENT for a value that is empty, `.`, `..`, no text or number, or holds control
    characters or an unfilled reference.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise Invalid(
                f"path {template!r}: nothing fills {{{name}}}",
                code="DS-TPL",
                hint=f"these have values here: {known}",
            )
        return _segment(values[name], name, template)

    plain = _PLACEHOLDER.sub("", template)
    if "{" in plain or "}" in plain:
        raise Invalid(
            f"path {template!r}: a brace that is no placeholder",
            code="DS-TPL",
            hint="write {name}: a letter or _, then letters, digits and _",
        )
    return _PLACEHOLDER.sub(fill, template)


def _segment(value: Any, name: str, template: str) -> str:
    reason = ""
    text = ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        reason = "is no text and no number"
    else:
        text = str(value)
        if not text:
            reason = "is empty"
        elif text in (".", ".."):
            reason = "would climb in the path"
        elif _CONTROL.search(text):
            reason = "holds a control character or an unfilled reference"
    if not reason:
        try:
            return quote(text, safe="")
        except UnicodeEncodeError:
            reason = "is not valid Unicode"
    raise Invalid(
        f"path {template!r}: the value of {{{name}}} {reason}",
        code="DS-URL-SEGMENT",
        hint="a value in a path is one segment of text",
    )


def _checked(target: str) -> str:
    path = target.partition("?")[0]
    if "//" in path or re.match(r"/?(https?|ftp|file|data):", path, re.IGNORECASE):
        raise Invalid(
            "a path that could leave the connection's origin",
            code="DS-URL-ORIGIN",
            hint="write paths relative to the connection's base URL, without scheme, host or //",
        )
    if not _TARGET.fullmatch(target):
        raise Invalid(
            "a path with characters that must be percent-encoded",
            code="DS-URL-ORIGIN",
            hint="write letters, digits and -._~ in paths, the rest percent-encoded",
        )
    if any(_DOTS.fullmatch(part) for part in path.split("/")):
        raise Invalid(
            "a path with `.` or `..` as a segment",
            code="DS-URL-ORIGIN",
            hint="write the path without them",
        )
    return target


def _astray(reason: str) -> ContractBreach:
    return ContractBreach(
        f"the API points to a place that we do not follow: {reason}",
        code="DS-URL-ORIGIN",
        hint="check the connection's base URL: links must stay at its scheme, host and port",
    )


def _base(base_url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(base_url)
        origin = _origin_of(parts.scheme, parts.hostname, parts.port)
    except ValueError:
        origin = ""
        parts = urlsplit("")
    if not origin or parts.scheme not in ("http", "https") or _ODD.search(base_url):
        raise Invalid(
            "the base URL is no http or https URL",
            code="DS-URL-BASE",
            hint="write it as https://host or https://host:port/path",
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Invalid(
            "the base URL holds a user, a query or a fragment",
            code="DS-URL-BASE",
            hint="credentials belong into the connection's `credentials`",
        )
    return origin, _checked("/" + (parts.path.strip("/") + "/").removeprefix("/"))


_PORTS = {"http": 80, "https": 443}


def _origin_of(scheme: str, host: str | None, port: int | None) -> str:
    if not host:
        return ""
    name = f"[{host}]" if ":" in host else host
    number = "" if port is None or port == _PORTS.get(scheme) else f":{port}"
    return f"{scheme}://{name}{number}"


# ---- one call ----------------------------------------------------------------------------------


class _Sent:
    """Learns from the library's trace whether the first byte has left."""

    __slots__ = ("_tell", "yet")

    def __init__(self, tell: Callable[[], None] | None) -> None:
        self._tell = tell
        self.yet = False

    async def __call__(self, event: str, _info: object) -> None:
        if event == "http11.send_request_headers.started":
            if self._tell is not None:
                self._tell()
            self.yet = True


def _head(response: httpx2.Response) -> dict[str, str]:
    raw = response.headers.raw
    if len(raw) > HEADER_LINES or sum(len(n) + len(v) for n, v in raw) > HEADER_BYTES:
        raise Unclear("the answer has too many headers", code="DS-HTTP-HEADERS")
    return dict(response.headers.items())


async def _read(response: httpx2.Response, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    packed = "content-encoding" in response.headers
    assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - for the types
    async for piece in response.aiter_bytes() if packed else response.stream:
        pieces.append(piece)
        size += len(piece)
        # Small texts may well shrink more than a hundredfold; a bomb does not stay small.
        swollen = packed and size > 1 << 20 and size > 100 * response.num_bytes_downloaded
        if size > max_bytes or swollen:
            raise Unclear(
                f"the answer is larger than {max_bytes >> 20} MiB, or was packed absurdly",
                code="DS-HTTP-SIZE",
                hint="ask for smaller pages (`paging.size`)",
                again=False,
            )
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _named(fault: Unclear, what: str) -> Unclear:
    return Unclear(f"{what}: {fault.message}", code=fault.code, hint=fault.hint, again=fault.again)


def _failure(error: Exception, what: str, sent: bool) -> Unavailable:
    if not sent:
        if _certificate_fault(error):
            return Untrusted(
                f"{what}: the server's certificate is not trusted",
                code="DS-TLS",
                hint="give the connection a `ca_file` that holds the issuer's certificate",
            )
        return NotSent(
            f"{what}: no connection ({_words(error)})",
            code="DS-HTTP-CONNECT",
            hint="check the base URL, DNS, firewall and that the server is up",
        )
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return Unclear(
            f"{what}: no whole answer in time",
            code="DS-HTTP-TIMEOUT",
            hint="see whether the server is slow or overloaded; `timeout_s` of the connection",
        )
    if isinstance(error, httpx2.DecodingError):
        return Unclear(f"{what}: the answer is packed badly", code="DS-HTTP-ENCODING", again=False)
    return Unclear(
        f"{what}: the connection broke ({_words(error)})",
        code="DS-HTTP-LOST",
        hint="try again; if it stays so, see the server, and any proxy on the way",
    )


def _words(error: Exception) -> str:
    return excerpt(str(error) or type(error).__name__, limit=120)


def _certificate_fault(error: BaseException | None, depth: int = 8) -> bool:
    # The library re-raises `from None`, so the cause is only in `args` or `__context__`.
    if error is None or depth == 0:
        return False
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    nested = [a for a in error.args if isinstance(a, BaseException)]
    nested += [e for e in (error.__cause__, error.__context__) if e is not None]
    return any(_certificate_fault(inner, depth - 1) for inner in nested)


def _tls(origin: str, verify: bool, ca_file: str | None) -> ssl.SSLContext:
    if origin.startswith("http:"):  # reading all certificates takes 20 ms
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = httpx2.create_ssl_context(verify=verify, trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if verify and ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Invalid(
                f"the CA file cannot be used: {_words(error)}",
                code="DS-TLS-CA",
                where=ca_file,
                hint="`ca_file` is a text file of PEM certificates",
            ) from None
    return context


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, text in headers.items():
        good = re.fullmatch(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+", name) and text.isascii()
        if not good or _CONTROL.search(text):
            raise Invalid(
                f"header {excerpt(name, limit=60)!r} has a name or a value that HTTP cannot carry",
                code="DS-HTTP-HEADER",
                hint="header values are ASCII text without line breaks",
            )


# ---- what servers say --------------------------------------------------------------------------


def excerpt(text: str, *, limit: int = 500, redact: Callable[[str], str] | None = None) -> str:
    """A foreign text made fit for messages: redacted, cut, control characters escaped."""
    if redact is not None:
        text = redact(text)
    text = " ".join(text.split()) if len(text) < 100_000 else text[:limit]
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def decode_json(body: bytes, *, what: str) -> Any:
    """JSON read strictly: UTF-8, one value, no NaN, no duplicate keys, at most 64 levels.

    Raises: ContractBreach DS-HTTP-EMPTY, DS-HTTP-HTML or DS-HTTP-JSON.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body or body.isspace():
        raise ContractBreach(f"{what}: the answer is empty", code="DS-HTTP-EMPTY")
    if body[:64].lstrip().startswith(b"<"):
        raise ContractBreach(
            f"{what}: the answer is HTML, not JSON",
            code="DS-HTTP-HTML",
            hint="check the base URL: a login page or a gateway may answer instead of the API",
        )
    try:
        value = msgspec.json.decode(body)
        keys, depth = _measure(value)
        # Each key is followed by a colon, and a text may hold `":` too: so equal numbers prove
        # that no key got lost, and only others need the slow road.
        if keys != body.count(b'":'):
            json.loads(body, object_pairs_hook=_unique)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ContractBreach(
            f"{what}: the answer is no good JSON ({excerpt(str(error), limit=120)})",
            code="DS-HTTP-JSON",
            hint="the answer may have been cut short; ask again",
        ) from None
    if depth > JSON_DEPTH:
        raise ContractBreach(
            f"{what}: the answer nests deeper than {JSON_DEPTH} levels", code="DS-HTTP-JSON"
        )
    return value


def _measure(value: Any) -> tuple[int, int]:
    keys, deepest = 0, 0
    stack = [(value, 1)] if isinstance(value, dict | list) else []
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        items = node.values() if type(node) is dict else node
        keys += len(node) if type(node) is dict else 0
        stack.extend((item, depth + 1) for item in items if type(item) in (dict, list))
    return keys, deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found
