"""Listeners: what goes wrong before the first byte of a call, seen by the standard library."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsync.emulators import listeners

pytestmark = pytest.mark.integration


def call(url: str, ca_file: Path | None = None) -> BaseException | bytes:
    """The body of the answer, or what went wrong below the HTTP library."""
    context = ssl.create_default_context(cafile=ca_file) if url.startswith("https") else None
    request = urllib.request.Request(url, b'{"a":1}')
    try:
        with urllib.request.urlopen(request, timeout=0.5, context=context) as response:
            body: bytes = response.read()
            return body
    except urllib.error.URLError as error:
        return error.reason if isinstance(error.reason, BaseException) else error
    except OSError as error:
        return error


def test_a_good_certificate_is_trusted() -> None:
    """The certificate that is made at run time is one that a client accepts from its authority."""
    with listeners.tls("good") as listener:
        assert call(listener.url, listener.ca_file) == b"{}"
        assert (listener.connections, listener.requests) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("self_signed", "self-signed certificate"),
        ("unknown_issuer", "unable to get local issuer"),
        ("wrong_host", "IP address mismatch"),
        ("expired", "certificate has expired"),
    ],
)
def test_a_bad_certificate_ends_the_handshake(kind: str, words: str) -> None:
    """Each kind of bad certificate fails for its own reason, and no call gets through."""
    with listeners.tls(kind) as listener:
        error = call(listener.url, listener.ca_file)
        assert isinstance(error, ssl.SSLCertVerificationError)
        assert words in error.verify_message
        assert (listener.connections, listener.requests) == (1, 0)


def test_a_server_without_tls_ends_the_handshake() -> None:
    """Plain HTTP where TLS is expected is no TLS."""
    with listeners.tls("no_tls") as listener:
        assert isinstance(call(listener.url), ssl.SSLError)


def test_a_reset_in_the_handshake() -> None:
    """The connection is reset before the client can say a word of HTTP."""
    with listeners.reset_in_handshake() as listener:
        error = call(listener.url)
        assert isinstance(error, ConnectionResetError | ssl.SSLEOFError)
        assert (listener.connections, listener.requests) == (1, 0)


def test_a_port_that_refuses() -> None:
    """Nobody listens there, and nobody else can take the port meanwhile."""
    with listeners.refused() as url:
        assert isinstance(call(url), ConnectionRefusedError)
        port = urllib.parse.urlsplit(url).port
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_a_port_that_never_accepts() -> None:
    """Connecting times out."""
    with listeners.silent() as url:
        assert isinstance(call(url), TimeoutError)


def test_a_host_that_no_dns_knows() -> None:
    """The name does not resolve."""
    assert isinstance(call(listeners.UNKNOWN_HOST), socket.gaierror)


@pytest.mark.parametrize(
    "listener", [listeners.tls, listeners.reset_in_handshake], ids=["tls", "reset"]
)
def test_a_listener_ends_with_its_block(listener: Callable[[], Any]) -> None:
    """After the block the port is closed, at once."""
    with listener() as running:
        port = urllib.parse.urlsplit(running.url).port
        began = time.monotonic()
    assert time.monotonic() - began < 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_an_unknown_kind_is_refused() -> None:
    """A kind of TLS that does not exist is told."""
    with pytest.raises(ValueError, match="self_signed"), listeners.tls("nope"):
        pass
