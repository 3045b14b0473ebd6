"""Certificates for loopback tests, made at run time: P-256 keys, ECDSA with SHA-256, DER by hand.

The standard library speaks TLS but makes no certificates, and a key in a repository would be a
secret in a repository. The arithmetic takes no care against observers: these keys protect nothing.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["Identity", "issue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate and its private key, both as PEM."""

    name: str
    certificate: str
    key: str
    number: int
    """The private key itself."""


def issue(
    name: str,
    *,
    hosts: tuple[str, ...] = (),
    issuer: Identity | None = None,
    begins: timedelta = timedelta(days=-1),
    ends: timedelta = timedelta(days=1),
) -> Identity:
    """A new key with its certificate, for `hosts` (names or addresses), by `issuer` or itself.

    Without `hosts` it is an authority that may issue others. `begins` and `ends` count from now.
    """
    number = 1 + secrets.randbelow(_N - 1)
    point = _public(number)
    signer = issuer or Identity(name=name, certificate="", key="", number=number)
    now = datetime.now(UTC)
    body = _seq(
        _tag(0xA0, _int(2)),  # version 3
        _int(secrets.randbits(63)),
        _ECDSA_SHA256,
        _name(signer.name),
        _seq(_time(now + begins), _time(now + ends)),
        _name(name),
        _seq(_seq(_oid("1.2.840.10045.2.1"), _P256), _bits(point)),
        _tag(0xA3, _seq(*_extensions(hosts, point, signer))),
    )
    certificate = _seq(body, _ECDSA_SHA256, _bits(_sign(signer.number, body)))
    key = _seq(_int(1), _tag(4, number.to_bytes(32)), _tag(0xA0, _P256), _tag(0xA1, _bits(point)))
    return Identity(
        name=name,
        certificate=_pem("CERTIFICATE", certificate),
        key=_pem("EC PRIVATE KEY", key),
        number=number,
    )


def _extensions(hosts: tuple[str, ...], point: bytes, signer: Identity) -> list[bytes]:
    own = hashlib.sha1(point, usedforsecurity=False).digest()
    above = hashlib.sha1(_public(signer.number), usedforsecurity=False).digest()
    found = [
        _extension("2.5.29.14", _tag(4, own)),
        _extension("2.5.29.35", _seq(_tag(0x80, above))),
    ]
    if not hosts:
        found.append(_extension("2.5.29.19", _seq(_tag(1, b"\xff")), critical=True))
        found.append(_extension("2.5.29.15", _tag(3, b"\x02\x04"), critical=True))  # signs others
        return found
    return [*found, _extension("2.5.29.17", _seq(*[_host(host) for host in hosts]))]


def _host(text: str) -> bytes:
    try:
        return _tag(0x87, ipaddress.ip_address(text).packed)
    except ValueError:
        return _tag(0x82, text.encode("ascii"))


# ---- the curve P-256 ---------------------------------------------------------------------------

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = tuple[int, int]


def _add(a: _Point | None, b: _Point | None) -> _Point | None:
    """The sum of two points; None is the point at infinity."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % _P == 0:
        return None
    if a == b:
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, _P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, _P)
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _times(number: int) -> _Point:
    total: _Point | None = None
    power: _Point | None = _G
    while number:
        if number & 1:
            total = _add(total, power)
        power, number = _add(power, power), number >> 1
    assert total is not None  # noqa: S101 - 0 < number < _N
    return total


def _public(number: int) -> bytes:
    x, y = _times(number)
    return b"\x04" + x.to_bytes(32) + y.to_bytes(32)


def _sign(number: int, body: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(body).digest())
    while True:
        once = 1 + secrets.randbelow(_N - 1)
        r = _times(once)[0] % _N
        s = pow(once, -1, _N) * (digest + r * number) % _N
        if r and s:
            return _seq(_int(r), _int(s))


# ---- DER ---------------------------------------------------------------------------------------


def _tag(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def _seq(*parts: bytes) -> bytes:
    return _tag(0x30, b"".join(parts))


def _int(value: int) -> bytes:
    return _tag(2, value.to_bytes(value.bit_length() // 8 + 1))


def _bits(content: bytes) -> bytes:
    return _tag(3, b"\0" + content)


def _oid(text: str) -> bytes:
    first, second, *rest = (int(part) for part in text.split("."))
    content = bytes([40 * first + second])
    for part in rest:
        groups = [part & 0x7F]
        while part := part >> 7:
            groups.append(0x80 | part & 0x7F)
        content += bytes(reversed(groups))
    return _tag(6, content)


def _name(text: str) -> bytes:
    return _seq(_tag(0x31, _seq(_oid("2.5.4.3"), _tag(0x0C, text.encode()))))


def _time(moment: datetime) -> bytes:
    return _tag(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


def _extension(oid: str, content: bytes, *, critical: bool = False) -> bytes:
    return _seq(_oid(oid), _tag(1, b"\xff") if critical else b"", _tag(4, content))


def _pem(label: str, content: bytes) -> str:
    text = base64.b64encode(content).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


_P256 = _oid("1.2.840.10045.3.1.7")
_ECDSA_SHA256 = _seq(_oid("1.2.840.10045.4.3.2"))
