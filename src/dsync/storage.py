"""The disk below our files: durable names, and its faults in our words."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from dsync.errors import Locked, StorageFault


def boot_id() -> str:
    """Names this start of the machine; empty where the system does not tell one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def make_folder(folder: Path) -> None:
    """A folder that only its owner may enter."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Make new names in `folder` durable; a power cut has been seen to lose them."""
    if os.name == "nt":
        return  # a folder cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Lock a file for this process until it is closed; False when another has it."""
        # Far behind the text: there, a locked byte could not be read by who wants to name us.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock a file for this process until it is closed; False when another has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def guarded(where: Path) -> Iterator[None]:
    """Faults of the disk and of SQLite, in our words."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        raise _storage_fault(where, name, str(error)) from error
    except UnicodeDecodeError as error:  # SQLite tells of a damaged name in its own bytes
        raise _storage_fault(where, "SQLITE_CORRUPT", "a name in it is no text") from error
    except OSError as error:
        raise StorageFault(
            f"the disk failed: {error.strerror or error}",
            code="DS-STORE-WRITE",
            where=str(error.filename or where),
            hint="make space, check the rights, then resume",
        ) from error


def _storage_fault(where: Path, name: str, text: str) -> StorageFault | Locked:
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Locked(
            "another process works on this run",
            code="DS-RUN-BUSY",
            where=str(where),
            hint="wait until it has ended",
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return StorageFault(
            f"the journal cannot be written: {text} ({name})",
            code="DS-STORE-WRITE",
            where=str(where),
            hint="make space, check the rights, then resume",
        )
    return StorageFault(
        f"the journal is damaged: {text} ({name})",
        code="DS-STORE-DAMAGED",
        where=str(where),
        hint="keep the folder; look at what the target holds before you plan again",
    )
