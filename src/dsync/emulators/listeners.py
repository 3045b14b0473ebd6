"""Listeners: servers that a call does not even reach, for what goes wrong before its first byte.

    UNKNOWN_HOST                a URL whose host no DNS knows
    with refused() as url       nobody listens at that port
    with silent() as url        the connection is never accepted: connecting times out
    with tls("self_signed") as  a certificate that nobody vouches for; see `TLS_KINDS`
    with reset_in_handshake()   the connection is reset in the middle of the TLS handshake

All are on loopback, each with a free port of its own, and end with their block. Answers that go
wrong are not here: they are faults of an emulator.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from .certificates import Identity, issue

__all__ = [
    "TLS_KINDS",
    "UNKNOWN_HOST",
    "Listener",
    "refused",
    "reset_in_handshake",
    "silent",
    "tls",
]

UNKNOWN_HOST = "http://nowhere.invalid"
"""The top-level domain `.invalid` never resolves (RFC 6761)."""

TLS_KINDS = ("good", "self_signed", "unknown_issuer", "wrong_host", "expired", "no_tls")

_HOST = "127.0.0.1"
_PATIENCE_S = 20.0


@dataclass(slots=True)
class Listener:
    """One listening port, and what came to it."""

    url: str
    ca_file: Path | None = None
    """The certificate of the authority that issued this one's, for a client that shall trust it."""
    connections: int = 0
    requests: int = 0
    """Calls whose headers came whole: 0, unless the handshake was good."""


@contextlib.contextmanager
def refused() -> Iterator[str]:
    """The URL of a port that refuses connections, and that nobody else takes meanwhile."""
    with socket.socket() as bound:
        bound.bind((_HOST, 0))
        yield f"http://{_HOST}:{bound.getsockname()[1]}"


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The URL of a port where connecting takes for ever: its queue is full, and never served."""
    with contextlib.ExitStack() as held:
        listening = held.enter_context(socket.socket())
        listening.bind((_HOST, 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(16):  # what fits in the queue differs by system
            waiting = held.enter_context(socket.socket())
            waiting.settimeout(0.05)
            try:
                waiting.connect((_HOST, port))
            except TimeoutError:
                break
        yield f"http://{_HOST}:{port}"


@contextlib.contextmanager
def tls(kind: str = "self_signed") -> Iterator[Listener]:
    """A server behind TLS that answers every call with `{}`; `kind` is one of `TLS_KINDS`.

    `good`, `wrong_host` and `expired` are issued by the authority in `ca_file`; `unknown_issuer`
    by another one. `no_tls` answers a handshake in plain HTTP. Raises: ValueError.
    """
    if kind not in TLS_KINDS:
        raise ValueError(f"a kind of TLS is one of {' '.join(TLS_KINDS)}, not {kind!r}")
    authority = issue("Emulator CA")
    ends = timedelta(hours=-1) if kind == "expired" else timedelta(days=1)
    hosts = ("elsewhere.example.test",) if kind == "wrong_host" else (_HOST, "localhost")
    issuer = None if kind == "self_signed" else authority
    if kind == "unknown_issuer":
        issuer = issue("Another CA")
    own = issue("emulator", hosts=hosts, issuer=issuer, ends=ends)
    with tempfile.TemporaryDirectory(prefix="emulator-tls-") as folder:
        ca_file = Path(folder, "ca.pem")
        ca_file.write_text(authority.certificate)
        context = None if kind == "no_tls" else _context(own, Path(folder, "own.pem"))

        def serve(connected: socket.socket, listener: Listener) -> None:
            if context is None:
                connected.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return
            with context.wrap_socket(connected, server_side=True) as secured:
                _answer(secured, listener)

        with _listening("https", serve) as listener:
            listener.ca_file = ca_file
            yield listener


@contextlib.contextmanager
def reset_in_handshake() -> Iterator[Listener]:
    """A server that reads the client's first words of TLS and resets the connection."""

    def serve(connected: socket.socket, _listener: Listener) -> None:
        connected.recv(4096)
        # Lingering for no time makes the kernel send RST instead of FIN.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with _listening("https", serve) as listener:
        yield listener


# ---- one thread a listener ---------------------------------------------------------------------


@contextlib.contextmanager
def _listening(scheme: str, serve: Callable[[socket.socket, Listener], None]) -> Iterator[Listener]:
    with socket.create_server((_HOST, 0)) as listening:
        listener = Listener(f"{scheme}://{_HOST}:{listening.getsockname()[1]}")
        thread = threading.Thread(target=_accept, args=(listening, listener, serve), daemon=True)
        thread.start()
        try:
            yield listener
        finally:
            # A thread that waits in `accept` is woken by a shutdown, not by a close.
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
            thread.join(_PATIENCE_S)


def _accept(
    listening: socket.socket, listener: Listener, serve: Callable[[socket.socket, Listener], None]
) -> None:
    while True:
        try:
            connected, _ = listening.accept()
        except OSError:
            return
        listener.connections += 1
        connected.settimeout(_PATIENCE_S)
        with connected, contextlib.suppress(OSError, ssl.SSLError):
            serve(connected, listener)


def _answer(connected: socket.socket, listener: Listener) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connected.recv(65_536)
        if not piece:
            return
        head += piece
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    missing = int(length[1]) if length else 0
    missing -= len(head.partition(b"\r\n\r\n")[2])
    while missing > 0 and (piece := connected.recv(missing)):
        missing -= len(piece)
    listener.requests += 1
    connected.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        b"Connection: close\r\n\r\n{}"
    )


def _context(own: Identity, path: Path) -> ssl.SSLContext:
    path.touch(0o600)
    path.write_text(own.certificate + own.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
