"""A file as a source: opened safely, hashed beside the reading, refused when it changes meanwhile.

Only regular files are read (a symbolic link to one is fine); nothing blocks on a FIFO or reads a
device for ever.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsync.errors import Invalid, Place

_CHUNK = 1 << 20
_HEAD = 8192
_SIGN = 8

# Bytes at the start of files that are often given under a wrong name.
_MAGIC = (
    (b"PK\x03\x04", "zip", "a zip archive (xlsx workbooks are)"),
    (b"PK\x05\x06", "zip", "an empty zip archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole", "an old or password-protected Office file"),
    (b"PAR1", "parquet", "a parquet file"),
    (b"\x1f\x8b", "gzip", "compressed with gzip"),
    (b"BZh", "bzip2", "compressed with bzip2"),
    (b"\xfd7zXZ\x00", "xz", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "compressed with zstd"),
    (b"%PDF-", "pdf", "a PDF"),
    (b"SQLite format 3\x00", "sqlite", "an SQLite database"),
)


def escaped(text: str, limit: int = 240) -> str:
    """`text` on one line and printable: control characters and broken bytes as `\\xNN`."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


class SourceFile:
    """An open regular file. `head` is its first 8 KiB; made by `opened` alone."""

    def __init__(self, path: Path, shown: str) -> None:
        self.path = path
        self.shown = escaped(shown)
        self._fd = _open(path, self)
        try:
            self._before = os.fstat(self._fd)
            if not stat.S_ISREG(self._before.st_mode):
                raise self.fault("FILE-KIND", "this is not a regular file", _KIND_HINT)
            self.head = os.pread(self._fd, _HEAD, 0)
        except BaseException:
            os.close(self._fd)
            raise
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._stop = False
        self._digest = ""
        self._read = 0
        self.nul_at: int | None = None
        """offset of the first NUL byte; known after `finish`"""
        self.private_use = False
        """some character may be U+E000-U+EFFF; known after `finish`"""
        self.suspect = False
        """what was given to `inspect` is in it; known after `finish`"""

    @property
    def size(self) -> int:
        """Bytes, when it was opened."""
        return self._before.st_size

    def fault(
        self,
        code: str,
        message: str,
        hint: str,
        *,
        row: int | None = None,
        line: int | None = None,
        column: int | None = None,
        cell: str | None = None,
    ) -> Invalid:
        """An error about this file; `code` without its `DS-`."""
        where = Place(file=self.shown, row=row, line=line, column=column, cell=cell)
        return Invalid(message, code=f"DS-{code}", where=where, hint=hint)

    @property
    def kind(self) -> tuple[str, str] | None:
        """What the first bytes say this is (a word, and words for people); None: maybe text."""
        for magic, kind, words in _MAGIC:
            if self.head.startswith(magic):
                return kind, words
        start = self.head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith((b"<!doctype html", b"<html", b"<table", b"<head", b"<meta")):
            return "html", "HTML"
        if start.startswith(b"<?xml"):
            return "xml", "XML"
        return None

    def read(self) -> bytes:
        """All bytes, in one piece; the digest is made from these."""
        data = self.pread(0, self.size + 1)
        self._read, self._digest = len(data), hashlib.sha256(data).hexdigest()
        return data

    def pread(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`, fewer only at the end of the file."""
        pieces = []
        while count > 0:
            piece = os.pread(self._fd, min(count, 64 << 20), offset)
            if not piece:
                break
            pieces.append(piece)
            offset, count = offset + len(piece), count - len(piece)
        return b"".join(pieces)

    def inspect(self, suspect: re.Pattern[bytes] | None = None) -> None:
        """Begin to hash the file and to look for odd bytes, in a thread beside the reading.

        `suspect` matches up to 8 bytes; it sets the attribute of that name.
        """
        self._thread = threading.Thread(target=self._inspect, args=(suspect,), daemon=True)
        self._thread.start()

    def finish(self) -> str:
        """Wait for `inspect`, make sure that the file is still the one opened; its digest.

        Raises: Invalid DS-FILE-CHANGED.
        """
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self.fault(
                "FILE-READ", f"the file cannot be read: {self._error.strerror}", "check the disk"
            )
        after = os.fstat(self._fd)
        try:
            named = os.stat(self.path)
        except OSError:
            named = None
        same = (
            named is not None
            and (named.st_dev, named.st_ino) == (after.st_dev, after.st_ino)
            and (after.st_size, after.st_mtime_ns) == (self.size, self._before.st_mtime_ns)
            and self._read == self.size
        )
        if not same:
            raise self.fault(
                "FILE-CHANGED", "the file changed while it was read", "wait until it is written"
            )
        return self._digest

    def close(self) -> None:
        """Stop the thread, if it still runs, and close the file."""
        self._stop = True
        if self._thread is not None:
            self._thread.join()
        os.close(self._fd)

    def _inspect(self, suspect: re.Pattern[bytes] | None) -> None:
        digest = hashlib.sha256()
        offset, end = 0, b""
        try:
            while not self._stop and (chunk := os.pread(self._fd, _CHUNK, offset)):
                digest.update(chunk)
                if self.nul_at is None and (at := chunk.find(b"\0")) >= 0:
                    self.nul_at = offset + at
                # In UTF-8 only U+E000 to U+EFFF begin with this byte, and it begins nothing else.
                self.private_use = self.private_use or b"\xee" in chunk
                if suspect is not None and not self.suspect:
                    found = suspect.search(chunk) or suspect.search(end + chunk[:_SIGN])
                    self.suspect = found is not None
                offset, end = offset + len(chunk), chunk[-_SIGN:]
        except OSError as error:
            self._error = error
        self._read, self._digest = offset, digest.hexdigest()


@contextmanager
def opened(path: Path, shown: str | None = None) -> Iterator[SourceFile]:
    """The regular file at `path`, called `shown` in messages.

    Raises: Invalid DS-FILE-MISSING (near names offered), -KIND, -ACCESS, -NAME, -OPEN.
    """
    source = SourceFile(path, shown or str(path))
    try:
        yield source
    finally:
        source.close()


_KIND_HINT = "copy its content to an ordinary file and give that"


def _open(path: Path, source: SourceFile) -> int:
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise source.fault("FILE-NAME", "the name is not valid UTF-8", "rename it") from None
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = next((word for test, word in _MODES if test(mode)), "not a regular file")
            raise source.fault("FILE-KIND", f"this is {what}, not a file of rows", _KIND_HINT)
        # The file may have been exchanged for a FIFO since: never wait in open.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise source.fault("FILE-MISSING", "there is no such file", _near(path)) from None
    except PermissionError:
        raise source.fault(
            "FILE-ACCESS", "this file may not be read", "give the user of this command read access"
        ) from None
    except ValueError:
        raise source.fault("FILE-NAME", "the name holds a NUL character", "correct it") from None
    except OSError as error:
        raise source.fault(
            "FILE-OPEN", f"cannot be opened: {error.strerror}", "check the path"
        ) from None


_MODES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {escaped(str(folder))} is not there either: check the path"
    try:
        names = sorted(entry.name for entry in os.scandir(folder))[:10_000]
    except OSError:
        return "check the path"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if not near:
        return f"check the path; the folder is {escaped(str(folder))}"
    return "did you mean " + " or ".join(escaped(name) for name in near) + "?"
