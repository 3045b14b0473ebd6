"""Named points at which a test makes the process die, fail or wait.

    DSYNC_FAILPOINT=intent.after:3 dsync apply …            killed at the third passage
    DSYNC_FAILPOINT=outcome.before:1:raise,poll.before:2:sleep:0.5

Without the variable a point costs a look at an empty dict.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

POINTS = (
    "plan.written", "run.created", "lock.taken", "intent.before", "intent.after", "sent.before",
    "sent.after", "answer.after", "outcome.before", "outcome.after", "job.before", "job.after",
    "poll.before", "resolve.before", "resolve.after", "wave.end", "report.before", "report.after",
    "registry.before", "registry.after", "quota.before", "quota.after", "stop.after", "end.after",
)  # fmt: skip
LOAD_POINTS = (
    "load.begun", "page.after", "part.before", "part.closed", "part.after", "put.before",
    "put.after", "load.ended", "finish.before", "finish.after", "load.end", "swap.before",
    "swap.after",
)  # fmt: skip
VARIABLE = "DSYNC_FAILPOINT"


def _armed() -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for text in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, rest = text.partition(":")
        number, _, action = rest.partition(":")
        known = POINTS + LOAD_POINTS
        if name not in known or not number.isdecimal():
            raise ValueError(f"{VARIABLE}={text}: no such point; there are {' '.join(known)}")
        found[name] = (int(number), action or "kill")
    return found


_points = _armed()
_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Pass a point. Raises: OSError where the action is `raise`."""
    if name not in _points:
        return
    _passed[name] += 1
    number, action = _points[name]
    if _passed[name] != number:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise OSError(28, "failpoint", name)
    elif action.startswith("sleep:"):
        time.sleep(float(action.removeprefix("sleep:")))
