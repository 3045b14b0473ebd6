"""Per target: the lock that lets one run write at a time.

The lock is the kernel's (`flock`): it goes with the process that holds it, a killed one included,
so there is nothing to expire and nothing to break. What the lock file says about its holder is
for messages only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dsync.errors import Locked, StorageFault

_HOLDER_BYTES = 4096
_WHO = (("run", "run_id"), ("process", "pid"), ("on", "host"), ("since", "since"))


def target_id(base_url: str, values: Mapping[str, str] | None = None) -> str:
    """What is written to: an API's base URL and the values of a scope, as 64 hex digits.

    `base_url` has scheme, host and path, and no credentials; a `/` at its end does not matter.
    """
    parts = (base_url.rstrip("/"), sorted((values or {}).items()))
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


@contextlib.contextmanager
def hold(state: Path, targets: Mapping[str, str], *, run_id: str) -> Iterator[None]:
    """Be the one writer of these targets (id -> name for people) while this lasts.

    The locks are `<state>/targets/<id>/lock`. They are taken in the order of their ids, so two
    runs can never wait for each other, and all or none.

    Raises: Locked at once, naming the holder; StorageFault.
    """
    with contextlib.ExitStack() as stack:
        for target, name in sorted(targets.items()):
            path = state / "targets" / target / "lock"
            descriptor = _open(path)
            stack.callback(os.close, descriptor)
            if not _try_lock(descriptor):
                raise _locked(name, descriptor)
            _sign(descriptor, run_id=run_id, name=name)
        yield


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise StorageFault(
            f"the lock of a target cannot be opened: {error.strerror or error}",
            code="DS-STORE-WRITE",
            where=str(path),
            hint="check the rights of the folder and the space on the disk",
        ) from error


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        # Far behind the text: there, a locked byte could not be read by who wants to name us.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _sign(descriptor: int, *, run_id: str, name: str) -> None:
    holder = {
        "run_id": run_id,
        "target": name,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # A disk that is full must not keep the lock from being ours.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, msgspec.json.encode(holder))


def _locked(target: str, descriptor: int) -> Locked:
    os.lseek(descriptor, 0, os.SEEK_SET)
    holder: dict[str, Any] = {}
    # Its holder may be about to write it.
    with contextlib.suppress(msgspec.DecodeError):
        holder = msgspec.json.decode(os.read(descriptor, _HOLDER_BYTES), type=dict[str, Any])
    words = " ".join(f"{word} {holder[name]}" for word, name in _WHO if name in holder)
    return Locked(
        f"another run writes to {target}: {words or 'its holder has not said its name yet'}",
        code="DS-LOCK-HELD",
        where=target,
        hint="wait until it has ended; a lock never outlives its process",
    )
