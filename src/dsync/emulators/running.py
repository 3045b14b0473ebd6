"""An emulator as a child process, and the control calls that a test makes to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

__all__ = ["ControlError", "Emulator", "start"]

Json = dict[str, object]

_STOP_S = 5.0
_CONTROL_S = 60.0


class ControlError(RuntimeError):
    """The emulator did not start, or refused a control call: the message is its own."""


class Emulator:
    """A running emulator, as a test sees it."""

    def __init__(self, url: str, *, pid: int) -> None:
        self.url = url
        """`http://127.0.0.1:PORT`, without a slash at the end."""
        self.pid = pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ledger(self, since: int = 0) -> list[Json]:
        """The calls after number `since`, oldest first."""
        return cast("list[Json]", self._call("GET", f"ledger?since={since}"))

    def effects(self, since: int = 0) -> list[Json]:
        """What those calls changed: kind, resource, scope, id, key, and the call's `seq`."""
        return cast("list[Json]", self._call("GET", f"effects?since={since}"))

    def counts(self) -> Json:
        """`total writes reads calls status effects faults`; `calls` is by method and template."""
        return cast("Json", self._call("GET", "counts"))

    def writes(self) -> int:
        """Calls that asked for a change, whether or not one came of it."""
        return cast("int", self.counts()["writes"])

    def state(self) -> Json:
        """Everything the emulator holds."""
        return cast("Json", self._call("GET", "state"))

    def seed(self, value: object) -> Json:
        """Puts or removes objects behind the client's back."""
        return cast("Json", self._call("POST", "seed", value))

    def faults(self, rules: Sequence[Mapping[str, object]]) -> list[Json]:
        """Replaces the fault rules; `[]` ends all misbehaviour."""
        return cast("list[Json]", self._call("POST", "faults", list(rules)))

    def switches(self, values: Mapping[str, object] | None = None) -> Json:
        """Sets switches, if any are given; returns all of them."""
        if values is None:
            return cast("Json", self._call("GET", "switches"))
        return cast("Json", self._call("POST", "switches", dict(values)))

    def advance(self, seconds: float) -> None:
        """Moves the emulator's clock forward."""
        self._call("POST", "clock", {"advance_s": seconds})

    def until(self, moment: str) -> None:
        """Moves its clock to the next `06:00` in its quota's zone, or to an ISO 8601 moment."""
        self._call("POST", "clock", {"to": moment})

    def clock(self) -> Json:
        """`now` (ISO 8601, UTC), `offset_s` from real time, `speed`, `monotonic_s`."""
        return cast("Json", self._call("GET", "clock"))

    def reset(self) -> None:
        """Back to the first state: objects, orders, tokens, faults, clock, ledger; not switches."""
        self._call("POST", "reset", {})

    def _call(self, method: str, path: str, value: object = None) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_CONTROL_S)
        with contextlib.closing(connection):
            body = None if value is None else json.dumps(value).encode()
            connection.request(method, f"/_emulator/{path}", body)
            response = connection.getresponse()
            answer = json.loads(response.read())
        if response.status != http.HTTPStatus.OK:
            raise ControlError(str(answer.get("error")))
        return answer


@contextlib.contextmanager
def start(
    name: str,
    *,
    switches: Mapping[str, object] | None = None,
    faults: Sequence[Mapping[str, object]] | None = None,
    seed: object = None,
    ledger: Path | None = None,
    port: int = 0,
) -> Iterator[Emulator]:
    """An emulator on a free port of 127.0.0.1, in a process of its own, until the block ends.

    The process also ends when this one dies, however it dies.

    Raises: ControlError with the emulator's own words when it cannot start.
    """
    command = [sys.executable, "-P", "-m", __package__, name, "--port", str(port)]
    command.append("--until-stdin-closes")
    for key, value in (switches or {}).items():
        command += ["--switch", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    if ledger:
        command += ["--ledger", str(ledger)]
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    path = f"{root}{os.pathsep}{inherited}" if inherited else root
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            line = child.stdout.readline().decode() if child.stdout else ""
            url = line.removeprefix("listening on ").strip()
            if not url.startswith("http://"):
                child.wait(_STOP_S)
                errors.seek(0)
                raise ControlError(errors.read().decode(errors="replace").strip() or line)
            emulator = Emulator(url, pid=child.pid)
            if seed is not None:
                emulator.seed(seed)
            if faults:
                emulator.faults(faults)
            yield emulator
        finally:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        child.terminate()
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
