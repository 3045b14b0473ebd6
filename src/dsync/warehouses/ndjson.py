"""JSON lines: a folder with one `.ndjson` file a table, one row a line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import BinaryIO

import msgspec

from dsync.warehouses import Site, Type, Value, Warehouse
from dsync.warehouses._behind import Behind
from dsync.warehouses._files import Files, Format

_CHUNK, _AT_ONCE = 1 << 20, 1 << 30


def connect(site: Site) -> Warehouse:
    """The folder `site.path`."""
    return Files(site, FORMAT)


class Writer:
    """A file of JSON lines; values of type `json` are texts in it, as in all warehouses."""

    def __init__(self, file: Path, columns: Mapping[str, Type]) -> None:
        fields = [f"f{index}" for index in range(len(columns))]
        rename = dict(zip(fields, columns, strict=True))
        self._line = msgspec.defstruct("Line", fields, rename=rename, gc=False)
        self._encoder = msgspec.json.Encoder()
        self._file = file.open("wb", buffering=0)
        self._behind: Behind[bytes] = Behind(self._write)
        self.bytes = 0

    def add(self, rows: Sequence[tuple[Value, ...]]) -> None:
        """See `PartWriter`."""
        lines = self._encoder.encode_lines(list(starmap(self._line, rows)))
        self._behind.give(lines)
        self.bytes += len(lines)

    def _write(self, given: Iterator[bytes]) -> None:
        for lines in given:
            left = memoryview(lines)
            while left:
                left = left[self._file.write(left) :]

    def close(self) -> None:
        """See `PartWriter`."""
        with self._file as file:
            self._behind.close()
            os.fsync(file.fileno())


def join(files: Sequence[Path], to: Path, _columns: Mapping[str, Type]) -> int:
    """See `Format`. The lines are counted once, in the new file."""
    with to.open("wb") as out:
        for file in files:
            with file.open("rb") as lines:
                _copied(lines.fileno(), out.fileno())
    return count_rows(to)


def add(file: Path, to: Path) -> int:
    """See `Format`. The lines are counted where they were written."""
    with (
        file.open("rb") as lines,
        os.fdopen(os.open(to, os.O_RDWR | os.O_CREAT, 0o666), "rb+") as out,
    ):
        began = out.seek(0, os.SEEK_END)
        _copied(lines.fileno(), out.fileno())
        os.fsync(out.fileno())
        out.seek(began)
        return _counted(out)


def _copied(source: int, target: int) -> None:
    """All bytes, within the kernel where it can."""
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):
            while os.copy_file_range(source, target, _AT_ONCE):
                pass
    # Whatever it did not do, as between two file systems, is done here.
    while chunk := os.read(source, _CHUNK):
        written = 0
        while written < len(chunk):
            written += os.write(target, chunk[written:])


def count_rows(file: Path) -> int:
    """The lines of a file."""
    with file.open("rb") as lines:
        return _counted(lines)


def _counted(lines: BinaryIO) -> int:
    return sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(_CHUNK), b""))


FORMAT = Format(suffix="ndjson", writer=Writer, join=join, count=count_rows, add=add)
