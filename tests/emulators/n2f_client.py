"""A client of the N2F emulator for tests: logs in by itself, knows the paths, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from emulator_client import Answer, Client

from dsync.emulators import Emulator

BASE = "/services/api/v2"
LOGIN = {"client_id": "demo-client", "client_secret": "demo-secret"}
ENT1, ENT2 = "MTAwMDE=", "MTAwMDI="
PLATES_1, SUBPOSTS_1 = "MjAwMDE=", "MjAwMDI="
PLATES_2, SUBPOSTS_2 = "MjAwMTE=", "MjAwMTI="
BOSS = "manager.one@example.test"
NAMES = [{"culture": "fr", "value": "Chantier"}, {"culture": "nl", "value": "Werf"}]


@dataclass
class N2f:
    """Calls on one connection after the other, under the token `demo`."""

    emulator: Emulator
    token: str = "demo"
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.emulator.port)

    def __call__(self, method: str, path: str, body: object = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        return self.client(method, f"{BASE}/{path}", body, headers=headers)

    def log_in(self, **body: object) -> Answer:
        answer = self.client("POST", f"{BASE}/auth", {**LOGIN, **body})
        if answer.status == 200:
            self.token = answer.json["response"]["token"]
        return answer

    def data(self, path: str) -> list[dict[str, Any]]:
        """One page."""
        answer = self("GET", path)
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.json["response"].get("data") or []
        return found

    def user(self, mail: str) -> dict[str, Any]:
        return next(user for user in self.data("users") if user["mail"] == mail)

    def save(self, mail: str = "new@example.test", **fields: object) -> Answer:
        return self("POST", "users", {"mail": mail, "company": ENT1, **fields})

    def value(self, code: str, company: str = ENT1, axis: str = "projects") -> dict[str, Any]:
        listed = self.data(f"companies/{quote(company)}/axes/{axis}")
        return next(value for value in listed if value["code"] == code)

    def put(
        self, code: str, *, company: str = ENT1, axis: str = "projects", **fields: object
    ) -> Answer:
        path = f"companies/{quote(company)}/axes/{quote(axis)}"
        return self("POST", path, {"code": code, **fields})

    def drop(self, code: str, *, company: str = ENT1, axis: str = "projects") -> Answer:
        path = f"companies/{quote(company)}/axes/{quote(axis)}/{quote(code, safe='')}"
        return self("DELETE", path)
