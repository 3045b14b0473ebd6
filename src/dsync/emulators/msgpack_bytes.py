"""MessagePack, read and written with the standard library alone.

Texts must be UTF-8; extension types are kept as `Extension`.

Source: the MessagePack specification.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Broken", "Extension", "pack", "unpack", "unpack_each"]


class Broken(ValueError):
    """Bytes that are not MessagePack, or end too early."""


@dataclass(frozen=True, slots=True)
class Extension:
    """A value of a type that an application made up."""

    kind: int
    data: bytes


def unpack_each(data: bytes) -> Iterator[tuple[int, int, object, bool]]:
    """The values that follow one another: start, end, value, and whether all its texts are UTF-8.

    Raises: Broken at the first value that is none.
    """
    at, size = 0, len(data)
    while at < size:
        clean = True
        try:
            try:
                value, end = _value(data, at, "strict")
            except UnicodeDecodeError:
                clean = False
                value, end = _value(data, at, "replace")
        except (IndexError, struct.error, RecursionError, TypeError) as error:
            raise Broken(f"byte {at}: {error}") from error
        if end > size:
            raise Broken(f"byte {at}: a value goes beyond the end")
        yield at, end, value, clean
        at = end


def unpack(data: bytes) -> object:
    """The one value that `data` is. Raises: Broken."""
    values = [value for _, _, value, _ in unpack_each(data)]
    if len(values) != 1:
        raise Broken(f"{len(values)} values where one is due")
    return values[0]


# ---- reading -----------------------------------------------------------------------------------

_Found = tuple[object, int]
_Read = Callable[[bytes, int, str], _Found]


def _value(data: bytes, at: int, errors: str) -> _Found:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xC0:
        if byte >= 0xA0:
            end = at + 1 + (byte & 31)
            return str(data[at + 1 : end], "utf-8", errors), end
        if byte >= 0x90:
            return _list(data, at + 1, byte & 15, errors)
        return _map(data, at + 1, byte & 15, errors)
    if byte >= 0xE0:
        return byte - 256, at + 1
    return _READERS[byte](data, at + 1, errors)


def _map(data: bytes, at: int, count: int, errors: str) -> _Found:
    _must_hold(data, at, 2 * count)
    found: dict[object, object] = {}
    for _ in range(count):
        byte = data[at]
        if 0xA0 <= byte < 0xC0:
            end = at + 1 + (byte & 31)
            key: object = str(data[at + 1 : end], "utf-8", errors)
            at = end
        else:
            key, at = _value(data, at, errors)
        found[key], at = _value(data, at, errors)
    return found, at


def _list(data: bytes, at: int, count: int, errors: str) -> _Found:
    _must_hold(data, at, count)
    found: list[object] = []
    for _ in range(count):
        value, at = _value(data, at, errors)
        found.append(value)
    return found, at


def _must_hold(data: bytes, at: int, count: int) -> None:
    # Each value has a byte at least: a count that lies must not cost memory.
    if at + count > len(data):
        raise IndexError(f"{count} values are more than there is room for")


def _constant(value: object) -> _Read:
    return lambda _data, at, _errors: (value, at)


def _number(form: str) -> _Read:
    reader = struct.Struct(form)
    size, unpack_from = reader.size, reader.unpack_from

    def read(data: bytes, at: int, _errors: str) -> _Found:
        return unpack_from(data, at)[0], at + size

    return read


def _sized(form: str, build: Callable[[bytes, int, int, str], _Found]) -> _Read:
    """A length, then what `build` reads."""
    reader = struct.Struct(form)
    size, unpack_from = reader.size, reader.unpack_from

    def read(data: bytes, at: int, errors: str) -> _Found:
        return build(data, at + size, unpack_from(data, at)[0], errors)

    return read


def _text(data: bytes, at: int, size: int, errors: str) -> _Found:
    end = at + size
    if end > len(data):
        raise IndexError("a text goes beyond the end")
    return str(data[at:end], "utf-8", errors), end


def _blob(data: bytes, at: int, size: int, _errors: str) -> _Found:
    if at + size > len(data):
        raise IndexError("bytes go beyond the end")
    return data[at : at + size], at + size


def _extension(data: bytes, at: int, size: int, _errors: str) -> _Found:
    end = at + 1 + size
    if end > len(data):
        raise IndexError("an extension goes beyond the end")
    kind: int = struct.unpack_from("b", data, at)[0]
    return Extension(kind, data[at + 1 : end]), end


def _fixed(size: int) -> _Read:
    return lambda data, at, errors: _extension(data, at, size, errors)


_READERS: dict[int, _Read] = {
    0xC0: _constant(None),
    0xC2: _constant(False),
    0xC3: _constant(True),
    0xC4: _sized(">B", _blob),
    0xC5: _sized(">H", _blob),
    0xC6: _sized(">I", _blob),
    0xC7: _sized(">B", _extension),
    0xC8: _sized(">H", _extension),
    0xC9: _sized(">I", _extension),
    0xCA: _number(">f"),
    0xCB: _number(">d"),
    0xCC: _number(">B"),
    0xCD: _number(">H"),
    0xCE: _number(">I"),
    0xCF: _number(">Q"),
    0xD0: _number(">b"),
    0xD1: _number(">h"),
    0xD2: _number(">i"),
    0xD3: _number(">q"),
    **{0xD4 + power: _fixed(1 << power) for power in range(5)},
    0xD9: _sized(">B", _text),
    0xDA: _sized(">H", _text),
    0xDB: _sized(">I", _text),
    0xDC: _sized(">H", _list),
    0xDD: _sized(">I", _list),
    0xDE: _sized(">H", _map),
    0xDF: _sized(">I", _map),
}


def _unknown(_data: bytes, at: int, _errors: str) -> _Found:
    raise IndexError(f"byte {at - 1} begins no value")


_READERS[0xC1] = _unknown


# ---- writing -----------------------------------------------------------------------------------


def pack(value: object) -> bytes:
    """One value, as short as it gets. Raises: TypeError for what MessagePack has not."""
    out = bytearray()
    _write(out, value)
    return bytes(out)


def _write(out: bytearray, value: object) -> None:
    if value is None:
        out.append(0xC0)
    elif isinstance(value, bool):
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _write_int(out, value)
    elif isinstance(value, float):
        out += b"\xcb" + struct.pack(">d", value)
    elif isinstance(value, str):
        data = value.encode()
        _head(out, len(data), (0xA0, 32), ((0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I")))
        out += data
    elif isinstance(value, bytes):
        _head(out, len(value), (0, 0), ((0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I")))
        out += value
    elif isinstance(value, list | tuple):
        _head(out, len(value), (0x90, 16), ((0xDC, ">H"), (0xDD, ">I")))
        for item in value:
            _write(out, item)
    elif isinstance(value, dict):
        _head(out, len(value), (0x80, 16), ((0xDE, ">H"), (0xDF, ">I")))
        for key, item in value.items():
            _write(out, key)
            _write(out, item)
    elif isinstance(value, Extension):
        _head(out, len(value.data), (0, 0), ((0xC7, ">B"), (0xC8, ">H"), (0xC9, ">I")))
        out += struct.pack("b", value.kind) + value.data
    else:
        raise TypeError(f"MessagePack has no {type(value).__name__}")


def _write_int(out: bytearray, value: int) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
        return
    forms = _POSITIVE if value >= 0 else _NEGATIVE
    for byte, form, bits in forms:
        if -(1 << bits) <= value < 1 << bits:
            out.append(byte)
            out += struct.pack(form, value)
            return
    raise TypeError("MessagePack has no such large number")


_POSITIVE = ((0xCC, ">B", 8), (0xCD, ">H", 16), (0xCE, ">I", 32), (0xCF, ">Q", 64))
_NEGATIVE = ((0xD0, ">b", 7), (0xD1, ">h", 15), (0xD2, ">i", 31), (0xD3, ">q", 63))


def _head(
    out: bytearray, count: int, short: tuple[int, int], forms: tuple[tuple[int, str], ...]
) -> None:
    byte, below = short
    if count < below:
        out.append(byte | count)
        return
    for byte, form in forms:
        if count < 1 << 8 * struct.calcsize(form):
            out.append(byte)
            out += struct.pack(form, count)
            return
    raise TypeError("MessagePack has no such long value")
