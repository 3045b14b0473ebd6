"""A log of one call, for tests of connectors: it keeps what it is told, in order."""

from __future__ import annotations

from dsync.connectors import Halted
from dsync.model import Outcome


class Kept:
    """See `dsync.connectors.CallLog`. `told`: `intent`, `sent`, `again STATE why`, `job PLACE`."""

    def __init__(self, jobs: list[str] | None = None, *, key: str = "K1", halted: bool = False):
        self.jobs: list[str] = [] if jobs is None else jobs
        self.told: list[str] = []
        self.bodies: list[str] = []
        self._key, self._halted = key, halted

    async def intent(self, body_sha256: str) -> str:
        if self._halted:
            raise Halted
        self.told.append("intent")
        self.bodies.append(body_sha256)
        return self._key

    def sent(self) -> None:
        assert self.told[-1] == "intent"
        self.told.append("sent")

    async def again(self, outcome: Outcome, why: str) -> None:
        self.told.append(f"again {outcome.state} {why}")

    def accepted(self, job: str) -> None:
        self.told.append(f"job {job}")
        self.jobs.append(job)
