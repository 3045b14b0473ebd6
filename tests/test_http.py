"""Transport facts against raw sockets, URLs that try to escape, and strict JSON."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dsync.errors import ContractBreach, DsyncError, Invalid
from dsync.http import (
    Answer,
    Client,
    NotSent,
    Unclear,
    Untrusted,
    decode_json,
    excerpt,
    render_path,
)

pytestmark = pytest.mark.integration

RST, FIN, HANG = "reset", "end", "hang"
Script = list[bytes | str]


class Raw:
    """A server that answers each call with the next script, byte by byte."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.calls: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.calls.append((head[0], headers, body))
        script = self.scripts.pop(0) if self.scripts else answer(b"{}")
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif step == RST:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                writer.transport.abort()
                return False
            elif step == FIN:
                return False
            else:
                await reader.read()
                return False
        return True


@contextlib.asynccontextmanager
async def raw(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
    server = Raw(list(scripts))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listening.close()


def answer(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> Script:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + body]


def ask(*scripts: Script, method: str = "POST", **settings: Any) -> tuple[Answer | DsyncError, Raw]:
    """One call to a server with these scripts: its answer or its error."""

    async def run() -> tuple[Answer | DsyncError, Raw]:
        async with raw(*scripts) as server, Client(server.url, **settings) as client:
            try:
                return await client.request(method, "x", template="x", body={"a": 1}), server
            except DsyncError as error:
                return error, server

    return asyncio.run(run())


# ---- transport facts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param([RST], "DS-HTTP-LOST", id="reset"),
        pytest.param([FIN], "DS-HTTP-LOST", id="end without an answer"),
        pytest.param([*answer(b'{"a"', length=9), FIN], "DS-HTTP-LOST", id="cut body"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{", FIN],
            "DS-HTTP-LOST",
            id="cut chunk",
        ),
        pytest.param([b"HTTZ/0.9 oops\r\n\r\n", FIN], "DS-HTTP-LOST", id="garbage"),
        pytest.param([HANG], "DS-HTTP-TIMEOUT", id="silence"),
        pytest.param(
            answer(b"{}", "200 OK", *(f"X-{n}: y" for n in range(300))),
            "DS-HTTP-HEADERS",
            id="300 headers",
        ),
        pytest.param(
            answer(b"{}", "200 OK", f"X: {'y' * 80_000}"), "DS-HTTP-HEADERS", id="80 kB header"
        ),
        pytest.param(
            answer(b"no gzip", "200 OK", "Content-Encoding: gzip"),
            "DS-HTTP-ENCODING",
            id="bad gzip",
        ),
        pytest.param(
            answer(gzip.compress(b" " * (8 << 20)), "200 OK", "Content-Encoding: gzip"),
            "DS-HTTP-SIZE",
            id="gzip bomb",
        ),
        pytest.param(answer(b"", length=1 << 40), "DS-HTTP-TIMEOUT", id="endless body"),
    ],
)
def test_an_answer_that_did_not_come_whole_is_unclear(script: Script, code: str) -> None:
    """After the first byte has left, nobody knows: whatever goes wrong is `Unclear`."""
    error, server = ask(script, read_s=0.4)
    assert isinstance(error, Unclear)
    assert error.code == code
    assert len(server.calls) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_nothing_is_sent_twice_on_a_reset_of_a_reused_connection(method: str) -> None:
    """A reset on a reused connection after the effect is told, and the call is not re-sent."""

    async def run() -> None:
        async with raw(answer(b"{}"), [RST]) as server, Client(server.url) as client:
            await client.request("GET", "a", template="a")
            with pytest.raises(Unclear):
                await client.request(method, "b", template="b")
            assert (server.connections, len(server.calls)) == (1, 2)

    asyncio.run(run())


def test_a_refused_connection_is_not_sent() -> None:
    """A connection that is refused took no byte of the call."""

    async def run() -> None:
        async with raw() as server:
            url = server.url
        async with Client(url) as client:
            with pytest.raises(NotSent) as caught:
                await client.request("POST", "x", template="x")
            assert caught.value.code == "DS-HTTP-CONNECT"

    asyncio.run(run())


def test_an_unknown_host_is_not_sent() -> None:
    """A name that DNS does not know took no byte of the call."""

    async def run() -> None:
        async with Client("http://nowhere.invalid") as client:
            with pytest.raises(NotSent):
                await client.request("POST", "x", template="x")

    asyncio.run(run())


def test_tls_against_a_server_without_it_is_not_sent() -> None:
    """A handshake that fails took no byte of the call."""

    async def run() -> None:
        async with raw([FIN]) as server:
            url = server.url.replace("http:", "https:")
            async with Client(url, connect_s=0.3) as client:
                with pytest.raises(NotSent):
                    await client.request("POST", "x", template="x")

    asyncio.run(run())


def test_a_full_pool_is_not_sent() -> None:
    """A call that waited for a free connection in vain has not left."""

    async def run() -> None:
        async with (
            raw([HANG], [HANG]) as server,
            Client(server.url, connections=1, read_s=0.5, pool_s=0.1) as client,
        ):
            first = asyncio.create_task(client.request("GET", "a", template="a"))
            await asyncio.sleep(0.05)
            with pytest.raises(NotSent):
                await client.request("POST", "b", template="b")
            with pytest.raises(Unclear):
                await first
            assert len(server.calls) == 1

    asyncio.run(run())


def test_a_drip_ends_at_the_total_deadline() -> None:
    """A server that always sends one more byte in time does not hold a call for ever."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(url, read_s=5, total_s=0.2) as client:
            with pytest.raises(Unclear) as caught:
                await client.request("GET", "x", template="x")
        assert caught.value.code == "DS-HTTP-TIMEOUT"
        server.close()
        await asyncio.sleep(0.05)

    asyncio.run(run())


def test_headers_before_the_answer_are_skipped() -> None:
    """Informational answers do not disturb the one that counts."""
    got, _ = ask([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50, *answer(b'{"a":1}')])
    assert isinstance(got, Answer)
    assert got.json() == {"a": 1}


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
def test_redirects_are_not_followed(status: str) -> None:
    """A redirect is an answer like any other: nothing is sent to where it points."""
    got, server = ask(answer(b"", f"{status} Elsewhere", "Location: /other"))
    assert isinstance(got, Answer)
    assert got.status == int(status)
    assert len(server.calls) == 1


def test_a_redirect_to_another_host_gets_no_token() -> None:
    """The other host of a redirect is never called, so it never sees a token."""

    async def run() -> None:
        async with raw() as other:
            script = answer(b"", "302 Found", f"Location: {other.url}/steal")
            async with raw(script) as server, Client(server.url) as client:
                got = await client.request(
                    "POST", "x", template="x", headers={"Authorization": "Bearer demo"}
                )
            assert got.status == 302
            assert other.calls == []
            assert server.calls[0][1]["authorization"] == "Bearer demo"

    asyncio.run(run())


def test_cookies_are_not_kept() -> None:
    """A cookie that one answer sets is not sent with the next call."""

    async def run() -> None:
        script = answer(b"{}", "200 OK", "Set-Cookie: session=1")
        async with raw(script) as server, Client(server.url) as client:
            await client.request("GET", "a", template="a")
            await client.request("GET", "b", template="b")
            assert "cookie" not in server.calls[1][1]

    asyncio.run(run())


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxy variables and netrc files do not change where a call goes or what it carries."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login demo password demo\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    got, server = ask()
    assert isinstance(got, Answer)
    assert "authorization" not in server.calls[0][1]


def test_a_connection_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may close an idle connection under our next call: so an old one is not used."""
    monkeypatch.setattr("dsync.http.IDLE_S", 0.05)

    async def run() -> None:
        async with raw() as server, Client(server.url) as client:
            await client.request("GET", "a", template="a")
            await asyncio.sleep(0.1)
            await client.request("POST", "b", template="b")
            assert server.connections == 2

    asyncio.run(run())


def test_a_large_answer_is_refused_by_its_limit() -> None:
    """The limit of a call's answer is its own argument; a list may be larger than a record."""

    async def run() -> None:
        large = answer(b" " * 5000)
        async with raw(large, large) as server, Client(server.url) as client:
            with pytest.raises(Unclear) as caught:
                await client.request("GET", "x", template="x", max_bytes=4000)
            assert not caught.value.again
            assert len((await client.request("GET", "x", template="x")).body) == 5000

    asyncio.run(run())


def test_bodies_and_queries() -> None:
    """JSON, forms and queries leave as they are written, with the right content type."""

    async def run() -> None:
        async with raw() as server, Client(server.url + "/v1/") as client:
            await client.request("POST", "a%2Fb", template="{x}", body={"k": "ü"})
            await client.request("POST", "t", template="t", form={"a": "b c"})
            await client.request("GET", "l", template="l", query={"q": "a&b", "n": "1"})
        assert server.calls[0][0] == "POST /v1/a%2Fb HTTP/1.1"
        assert server.calls[0][1]["content-type"] == "application/json"
        assert server.calls[0][2] == '{"k":"ü"}'.encode()
        assert server.calls[1][1]["content-type"] == "application/x-www-form-urlencoded"
        assert server.calls[1][2] == b"a=b+c"
        assert server.calls[2][0] == "GET /v1/l?q=a%26b&n=1 HTTP/1.1"

    asyncio.run(run())


def test_an_answer_shows_nothing_in_its_repr() -> None:
    """Bodies and headers do not slip into logs by way of `repr`."""
    got, _ = ask(answer(b'{"token":"hush"}', "200 OK", "X-Secret: hush"))
    assert "hush" not in repr(got)


# ---- certificates ------------------------------------------------------------------------------

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes a certificate with the openssl command"
)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command += " -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


Certificate = tuple[Path, ssl.SSLContext]


@needs_openssl
def test_an_unknown_certificate_stops_with_its_own_code(certificate: Certificate) -> None:
    """A self-signed certificate is DS-TLS, not one of the failures that are tried again."""

    async def run() -> None:
        async with raw(tls=certificate[1]) as server, Client(server.url) as client:
            with pytest.raises(Untrusted) as caught:
                await client.request("POST", "x", template="x")
            assert caught.value.code == "DS-TLS"
            assert server.calls == []

    asyncio.run(run())


@needs_openssl
@pytest.mark.parametrize("by", ["ca_file", "verify_tls"])
def test_a_certificate_can_be_trusted(certificate: Certificate, by: str) -> None:
    """A CA file, or no verification at all, lets the call through."""
    trust: dict[str, Any] = {"ca_file": str(certificate[0])}
    settings = trust if by == "ca_file" else {"verify_tls": False}

    async def run() -> None:
        async with raw(tls=certificate[1]) as server, Client(server.url, **settings) as client:
            got = await client.request("GET", "x", template="x")
            assert got.status == 200

    asyncio.run(run())


def test_a_ca_file_that_is_none_is_told(tmp_path: Path) -> None:
    """A CA file that cannot be read is a fault of the configuration, with its name."""
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(Invalid) as caught:
        Client("https://api.example.test", ca_file=str(tmp_path / "ca.pem"))
    assert caught.value.code == "DS-TLS-CA"


# ---- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "values", "path"),
    [
        ("users", {}, "users"),
        ("users/{id}", {"id": 7}, "users/7"),
        ("users/{mail}", {"mail": "a/b@example.test"}, "users/a%2Fb%40example.test"),
        ("{a}/{b}", {"a": "ä", "b": "%2e"}, "%C3%A4/%252e"),
        ("x?of={id}", {"id": "a&b"}, "x?of=a%26b"),
    ],
)
def test_each_value_is_one_segment(template: str, values: dict[str, Any], path: str) -> None:
    """A value in a path is percent-encoded, so it can be nothing but one segment."""
    assert render_path(template, values) == path


@pytest.mark.parametrize(
    "value", ["", ".", "..", "a\nb", "\x00", "\u202e\u2028", None, True, ["a"], "\ue000r\ue001"]
)
def test_values_that_are_no_segment_are_refused(value: Any) -> None:
    """Empty, dots, control characters, other types and unfilled references are no segment."""
    with pytest.raises(Invalid) as caught:
        render_path("users/{id}", {"id": value})
    assert caught.value.code == "DS-URL-SEGMENT"


@pytest.mark.parametrize("template", ["users/{who}", "users/{", "a}b", "{0}"])
def test_a_placeholder_without_a_value_is_refused(template: str) -> None:
    """What nothing fills is a fault, never a literal brace in a URL."""
    with pytest.raises(Invalid) as caught:
        render_path(template, {"id": 1})
    assert caught.value.code == "DS-TPL"


@pytest.mark.parametrize(
    "path",
    [
        "http://evil.example.test/x",
        "//evil.example.test/x",
        "/\\evil.example.test",
        "..",
        "a/../../b",
        "a/%2e%2E/b",
        "https:evil",
        "a b",
        "a\r\nHost: evil",
        "ü",
        "a#b",
        "a//b",
    ],
)
def test_a_path_cannot_leave_the_origin(path: str) -> None:
    """A path with a scheme, a host, a backslash, dots or raw characters is not sent."""

    async def run() -> None:
        async with Client("http://127.0.0.1:9/v1") as client:
            with pytest.raises(Invalid) as caught:
                await client.request("GET", path, template="x")
            assert caught.value.code == "DS-URL-ORIGIN"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("orders/7", "/v1/orders/7"),
        ("/orders/7", "/v1/orders/7"),
        ("https://api.example.test/v1/orders/7?x=1", "/v1/orders/7?x=1"),
        ("https://API.example.test:443/a", "/a"),
        ("/users?page[number]=2", "/v1/users?page%5Bnumber%5D=2"),
    ],
)
def test_a_place_at_the_origin_is_located(url: str, target: str) -> None:
    """Paths and URLs of the own origin that an answer gave become targets."""
    assert Client("https://api.example.test/v1").locate(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.test/x",
        "http://api.example.test/x",
        "https://api.example.test:8443/x",
        "https://user:pass@api.example.test/x",
        "https://api.example.test@evil.example.test/x",
        "//evil.example.test/x",
        "https:\\\\evil.example.test",
        "/a/../b",
        "a b",
        "https://[::1",
        "file:///etc/passwd",
        "javascript:alert(1)",
    ],
)
def test_a_place_elsewhere_is_refused(url: str) -> None:
    """A link to another origin, with a user, or with a trick in it, is not followed."""
    with pytest.raises(ContractBreach) as caught:
        Client("https://api.example.test/v1").locate(url)
    assert caught.value.code == "DS-URL-ORIGIN"


@pytest.mark.parametrize(
    "url",
    ["", "api.example.test", "ftp://a.test", "http://", "http://u:p@a.test", "http://a.test?x=1"],
)
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    """A base URL is http or https with a host, and holds no credentials and no query."""
    with pytest.raises(Invalid) as caught:
        Client(url)
    assert caught.value.code == "DS-URL-BASE"


@pytest.mark.parametrize("text", ["a\r\nX: y", "ü", "\x00"])
def test_a_header_that_http_cannot_carry_is_refused(text: str) -> None:
    """A line break in a header value would begin a new header."""
    with pytest.raises(Invalid) as caught:
        Client("http://a.example.test", headers={"X-Key": text})
    assert caught.value.code == "DS-HTTP-HEADER"


# ---- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "DS-HTTP-EMPTY"),
        (b" \n", "DS-HTTP-EMPTY"),
        (b"<!DOCTYPE html><html></html>", "DS-HTTP-HTML"),
        (b"\xef\xbb\xbf  <html>", "DS-HTTP-HTML"),
        (b'{"a": 1', "DS-HTTP-JSON"),
        (b'{"a": NaN}', "DS-HTTP-JSON"),
        (b'{"a": Infinity}', "DS-HTTP-JSON"),
        (b'{"a": 1, "a": 2}', "DS-HTTP-JSON"),
        (b'[{"b": {"a" : 1, "a" : 2}}]', "DS-HTTP-JSON"),
        (b'{"a": "\xff"}', "DS-HTTP-JSON"),
        ('{"a": 1}'.encode("utf-16"), "DS-HTTP-JSON"),
        (b'{"a": 1} {"b": 2}', "DS-HTTP-JSON"),
        (b"[" * 65 + b"]" * 65, "DS-HTTP-JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "DS-HTTP-JSON"),
    ],
)
def test_json_is_read_strictly(body: bytes, code: str) -> None:
    """Empty, HTML, cut, ambiguous, wrongly encoded or bottomless JSON is a breach."""
    with pytest.raises(ContractBreach) as caught:
        decode_json(body, what="GET x")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a": [1, 2.5, "\\":"]}', {"a": [1, 2.5, '":']}),
        (b'{ "a" : {"a" : null} }', {"a": {"a": None}}),
        (b"[" * 64 + b"]" * 64, None),
        (b"3", 3),
    ],
)
def test_good_json_is_read(body: bytes, value: Any) -> None:
    """Blanks, colons in texts, a byte order mark and 64 levels are good JSON."""
    got = decode_json(body, what="GET x")
    assert value is None or got == value


def test_foreign_texts_are_cut_redacted_and_escaped() -> None:
    """What a server says enters a message only redacted, cut, and without control characters."""
    text = excerpt("oops \x1b[31m hush\r\n" + "x" * 900, redact=lambda t: t.replace("hush", "***"))
    assert text.startswith("oops \\x1b[31m *** xxx")
    assert len(text) < 520
    assert "\x1b" not in text
