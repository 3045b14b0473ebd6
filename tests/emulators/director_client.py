"""A client of one node of the Director emulator, which follows orders to their end."""

from __future__ import annotations

from typing import Any

from emulator_client import Answer, Client

from dsync.emulators import Emulator

BLUE = "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001"
GREEN = "b0b0b0b0b0b0b0b0b0b0b0b0b0b00002"
ONE = "c0ffee00c0ffee00c0ffee00c0ffee01"
TWO = "c0ffee00c0ffee00c0ffee00c0ffee02"

KEYS = {
    "RoutingPolicies": "policy_name", "ProcessingPolicy": "policy_name", "Users": "username",
    "EnrichmentSource": "source_name", "DistributedLogpoints": "private_ip",
}  # fmt: skip
"""Natural keys that are not called `name`."""


class Director:
    """A client of one node that follows orders to their end."""

    def __init__(self, emulator: Emulator, node: str = ONE, pool: str = BLUE) -> None:
        self.emulator = emulator
        self.call = Client(emulator.port, {"Authorization": "Bearer demo"})
        self.scope = f"{pool}/{node}"
        self.base = f"/configapi/{self.scope}"

    def get(self, path: str) -> Any:
        answer = self.call("GET", f"{self.base}/{path}")
        assert answer.status == 200, answer.body
        return answer.json

    def send(self, method: str, path: str, data: object = None) -> Answer:
        body = None if data is None else {"data": data}
        return self.call(method, f"{self.base}/{path}", body)

    def order(self, method: str, path: str, data: object = None) -> Any:
        """The response of the order that a write ends in."""
        answer = self.send(method, path, data)
        assert (answer.status, answer.json["status"]) == (200, "Success"), answer.body
        return self.follow(answer.json["message"])

    def follow(self, message: str) -> Any:
        for _ in range(10):
            answer = self.call("GET", f"/{message.lstrip('/')}")
            assert answer.status == 200
            if answer.json["response"]:
                return answer.json["response"]
        raise AssertionError("the order never ended")

    def named(self, resource: str, name: str, key: str = "name") -> Any:
        """The object of that name, as List shows it."""
        return next((one for one in self.get(resource) if one[key] == name), None)

    def objects(self, resource: str) -> list[Any]:
        """The objects of a resource, however they are read."""
        if resource == "AlertRules":
            rows: list[Any] = self.order("POST", "AlertRules/MyAlertRules/fetch", {})["rows"]
            return rows
        if resource == "SyslogCollector":
            owners = [*self.get("Devices"), *self.get("LogCollectionPolicies")]
            apps = [{**app, "name": one["name"]} for one in owners for app in one["col_apps"]]
            return [{**app, "id": app["uuid"]} for app in apps if app["app"] == resource]
        found = self.get(resource)
        return found[0] if found and isinstance(found[0], list) else found

    def find(self, resource: str, name: str) -> Any:
        """The object of that natural key, None when there is none."""
        key = KEYS.get(resource, "name")
        return next((one for one in self.objects(resource) if one[key] == name), None)

    def filled(self, value: Any) -> Any:
        """`@Resource/name` in a body becomes the id on this node."""
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if isinstance(value, str) and value.startswith("@"):
            resource, _, name = value[1:].partition("/")
            return self.find(resource, name)["id"]
        return value
