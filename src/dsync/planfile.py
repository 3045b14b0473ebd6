"""The plan file: a plan as it was approved, written once, proved at each reading.

A plan file is the plan's body between two lines: a header, and an end that holds the number of
lines, when the plan was made, and the SHA-256 of everything before it (with the time).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from dsync.errors import Invalid, Stale
from dsync.model import PLAN_FORMAT_VERSION, CacheUse, Measures, Plan, Scope, Tally, Verdict
from dsync.storage import guarded, sync_folder

_HEADER_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20


class _Header(msgspec.Struct):
    kind: str
    format: str
    format_version: int
    tool_version: str
    digest: str
    tallies: tuple[Tally, ...]
    scopes: tuple[Scope, ...]
    connections: dict[str, str]
    inputs: dict[str, str]
    guards: tuple[Measures, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    cache: CacheUse = CacheUse()


class _Kind(msgspec.Struct):
    kind: str = ""
    format: str = ""
    format_version: int = 0


class _End(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    lines: int
    created: str
    sha256: str


def save_plan(plan: Plan, path: Path, *, mode: int = 0o600) -> str:
    """Write `plan` as one file, whole or not at all, durable on return; gives its SHA-256.

    The same plan gives the same bytes. The SHA-256 is of all that is before the file's last line,
    and of the time in it.

    Raises: StorageFault.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with guarded(path), os.fdopen(os.open(part, flags, 0o600), "wb") as file:
            sha256 = hashlib.sha256()
            lines = -1
            for line in _plan_lines(plan):
                sha256.update(line)
                file.write(line)
                lines += 1
            created = plan.created.isoformat() if plan.created else ""
            sha256.update(created.encode())
            end = {"kind": "end", "lines": lines, "created": created, "sha256": sha256.hexdigest()}
            file.write(msgspec.json.encode(end) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            os.chmod(part, mode)
            os.replace(part, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return sha256.hexdigest()


def load_plan(path: Path) -> Plan:
    """The plan that `save_plan` wrote; its body is this file.

    Every byte is checked before this returns, in little memory.

    Raises: Invalid when there is no such file; Stale when it is no plan, is of a newer version,
    is truncated, or was edited.
    """
    return verified(path)[0]


def verified(path: Path) -> tuple[Plan, str]:
    try:
        with path.open("rb") as file:
            header = _header(path, file.readline(_HEADER_BYTES))
            end, size = _end(path, file)
            sha256, lines = _digest(file, size, end.created)
    except OSError as error:
        raise Invalid(
            f"the plan cannot be read: {error.strerror or error}",
            code="DS-PLAN-MISSING",
            where=str(path),
            hint="`dsync plan --out FILE` writes one",
        ) from error
    if lines - 1 != end.lines:
        why = f"{lines - 1} lines where {end.lines} were written"
        raise stale("TRUNCATED" if lines - 1 < end.lines else "EDITED", path, why)
    if sha256 != end.sha256:
        raise stale("EDITED", path, "its SHA-256 is not the one that it was written with")
    plan = Plan(
        tallies=header.tallies,
        scopes=header.scopes,
        connections=header.connections,
        inputs=header.inputs,
        digest=header.digest,
        body=path,
        tool_version=header.tool_version,
        guards=header.guards,
        verdicts=header.verdicts,
        created=_moment(path, end.created),
        cache=header.cache,
    )
    return plan, sha256


def _moment(path: Path, text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise stale("EDITED", path, "the time in its last line is none") from None


def _plan_lines(plan: Plan) -> Iterator[bytes]:
    header = {
        "kind": "plan",
        "format": "dsync-plan",
        "format_version": PLAN_FORMAT_VERSION,
        "tool_version": plan.tool_version,
        "digest": plan.digest,
        "tallies": plan.tallies,
        "scopes": [
            {"name": s.name, "values": _sorted(s.values), "role": s.role} for s in plan.scopes
        ],
        "connections": _sorted(plan.connections),
        "inputs": _sorted(plan.inputs),
        "guards": plan.guards,
        "verdicts": plan.verdicts,
        **({"cache": plan.cache} if plan.cache.hits or plan.cache.misses else {}),
    }
    yield msgspec.json.encode(header) + b"\n"
    with plan.body.open("rb") as body:
        for line in body:
            # The body may be a plan file itself: then these two are not of the body.
            if not line.startswith((b'{"kind":"plan"', b'{"kind":"end"')):
                yield line if line.endswith(b"\n") else line + b"\n"


def _sorted(values: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(values.items()))


def _header(path: Path, line: bytes) -> _Header:
    try:
        kind = msgspec.json.decode(line, type=_Kind)
    except msgspec.DecodeError:
        kind = _Kind()
    if (kind.kind, kind.format) != ("plan", "dsync-plan"):
        raise stale("NOT-A-PLAN", path, "this is not a plan file")
    if kind.format_version > PLAN_FORMAT_VERSION:
        why = f"its format {kind.format_version} is newer than {PLAN_FORMAT_VERSION}, ours"
        raise stale("VERSION", path, why, hint="use the dsync that made it, or plan again")
    try:
        return msgspec.json.decode(line, type=_Header)
    except msgspec.DecodeError as error:
        raise stale("EDITED", path, f"its header is damaged: {error}") from error


def _end(path: Path, file: Any) -> tuple[_End, int]:
    """The last line, and the number of bytes before it."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - 4096)
    file.seek(tail_at)
    tail = file.read()
    start = tail[:-1].rfind(b"\n") + 1
    try:
        end = msgspec.json.decode(tail[start:], type=_End)
    except msgspec.DecodeError:
        raise stale("TRUNCATED", path, "its last line is missing") from None
    if end.kind != "end" or not tail.endswith(b"\n"):
        raise stale("TRUNCATED", path, "its last line is missing")
    return end, tail_at + start


def _digest(file: Any, size: int, created: str) -> tuple[str, int]:
    """SHA-256 of the first `size` bytes and the time, and the number of lines."""
    file.seek(0)
    sha256, lines = hashlib.sha256(), 0
    while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
        sha256.update(chunk)
        lines += chunk.count(b"\n")
        size -= len(chunk)
    sha256.update(created.encode())
    return sha256.hexdigest(), lines


def stale(code: str, path: Path, why: str, *, hint: str = "plan again") -> Stale:
    """A fault of a plan file."""
    return Stale(why, code=f"DS-PLAN-{code}", where=str(path), hint=hint)
