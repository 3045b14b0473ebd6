"""Emulators: local imitations of the APIs that come with this project, and their control.

An emulator is a witness of its own: it imports nothing of this project outside this package and
nothing beyond the standard library. It runs as a process, speaks HTTP/1.1 on loopback, keeps a
ledger of every call, and misbehaves when it is told to.

    python -m dsync.emulators director --port 8701
    python -m dsync.emulators plain --port 0 --switch paging=cursor --ledger calls.ndjson
    python -m dsync.emulators plain --describe              # its switches and faults

    with emulators.start("director", switches={"order_polls": 0}) as em:
        client(em.url)                   # http://127.0.0.1:PORT
        em.counts()["writes"]            # calls that asked for a change
        em.ledger(since=10)              # the calls after number 10
        em.faults([{"match": {"method": "POST", "nth": 2}, "fault": "reset", "when": "after"}])
        em.faults(emulators.mixed(0.05)) # 5 % of all calls, faults of all kinds
        em.advance(8 * 3600)             # eight hours later

**Control.** These calls are never in the ledger, never limited, and never hit by a fault.

| call | answer or body |
|---|---|
| `GET /_emulator/ledger?since=N` | calls after number N: seq, at, monotonic_s and answered_s, \
scope, overlaps, open_writes, over_quota, method, path, query, template, write, kind, headers, \
body, status, fault, effects |
| `GET /_emulator/effects?since=N` | what they changed: seq, kind (create, update, delete), \
resource, scope, id, key, at |
| `GET /_emulator/counts` | total, writes, reads, calls by method and path template, status, \
effects, faults, in_flight_max, open_writes_max, over_quota, per_minute |
| `GET /_emulator/state` | everything held |
| `POST /_emulator/seed` | puts or removes objects behind the client's back |
| `GET`, `POST /_emulator/switches` | all switches; `{"name": value}` sets some, null is default |
| `GET`, `POST /_emulator/faults` | the rules in force; a list replaces them all |
| `GET`, `POST /_emulator/clock` | now; `{"advance_s": 60}` moves it, `{"to": "06:00"}` to the \
next such time in the quota's zone, or to an ISO 8601 moment |
| `POST /_emulator/reset` | first state: objects, tokens, faults, clock, ledger; not switches |

Secrets (`Authorization`, keys named like token, secret, password) show in the ledger as the first
16 hex digits of their SHA-256, which `fingerprint` computes too.

**Switches** change what the API is like; `describe(name)` lists those of one emulator. In `plain`
a switch may carry a collection's name: `things.paging=cursor`.

**Faults** change what one answer is like. A rule is `{"match": {…}, "fault": NAME, …arguments}`;
`match` takes `method`, `path` (a regular expression over path and query), `reused` (a connection
that had a call before), and then, over the calls that fit, `nth` (a number or a list), `from`,
`every`, `probability` with `seed`, and `times` (at most). Every rule counts the calls that fit it;
the first rule of the wire that hits a call is shown. `when` says whether the call still has its
effect: `after`, or `before` (even `before_read` its body). `{"mixed": 0.05, "seed": 1}` in the
place of a rule stands for faults of all kinds on 5 % of all calls.

**The judge.** A call's entry has the moments of its arrival and of its end (`monotonic_s`,
`answered_s`), the calls of the same scope that were in flight when it came (`overlaps`), and the
quotas that it was too many for by the server's own clock (switch `quota`; `enforce_quota` refuses
it too). `counts()` has the worst: `in_flight_max` (calls of one scope at once), `open_writes_max`
(writes of one scope at once, until the job of each has ended), `over_quota` (calls).

**One clock for two.** With the switch `clock_speed=0` an emulator's time passes by `advance` only.
A client whose clock stands still too, and whose sleep is an `advance`, then lives in the same
virtual time to the last digit: hours of quotas in the time that the calls take.

What goes wrong before a call's first byte has no answer to bend: `listeners` has ports that
refuse, never accept, show a wrong certificate or reset the handshake.

To add an emulator: a module with `SWITCHES`, `FAULTS` and a class `App` (see `server.App`), and its
name in `NAMES`.
"""

from __future__ import annotations

from . import faults as _faults
from . import listeners
from .faults import mixed
from .ledger import fingerprint
from .running import ControlError, Emulator, start
from .server import NAMES, SeedError, personality, serve
from .switches import COMMON, Switch, SwitchError

__all__ = [
    "NAMES",
    "ControlError",
    "Emulator",
    "SeedError",
    "SwitchError",
    "describe",
    "fingerprint",
    "listeners",
    "mixed",
    "serve",
    "start",
    "switches",
]


def switches(name: str) -> dict[str, Switch]:
    """All switches of an emulator, those that all have first. Raises: ValueError."""
    return {**COMMON, **personality(name).SWITCHES}


def describe(name: str) -> str:
    """The switches and faults of an emulator as Markdown tables. Raises: ValueError."""
    module = personality(name)
    lines = [f"# {name}", "", (module.__doc__ or "").strip(), "", "## Switches", ""]
    lines += ["| switch | takes | default | meaning |", "|---|---|---|---|"]
    for word, switch in switches(name).items():
        default = "" if switch.default == "" else f"`{switch.default}`"
        lines.append(f"| `{word}` | {switch.takes()} | {default} | {switch.doc} |")
    lines += ["", "## Faults", "", "| fault | when | arguments | meaning |", "|---|---|---|---|"]
    lines += [f"| `{n}` | {when} | {args} | {doc} |" for n, when, args, doc in _faults.words()]
    lines += [f"| `{word}` | | | {doc} |" for word, doc in module.FAULTS.items()]
    return "\n".join(lines)
