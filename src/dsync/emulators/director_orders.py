"""Orders of the Director emulator: what a write is accepted as, and where its end is read.

Without a poll an order still finishes, `order_max_s` after it was accepted.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from .clock import Clock
from .director_nodes import Node
from .ledger import Call
from .messages import Answer, Request, json_answer
from .switches import Switches

__all__ = ["Orders", "Outcome", "failed"]

Data = dict[str, object]


def failed(status: int, error: str) -> Answer:
    """A refusal."""
    return json_answer({"status": "Failed", "error": error}, status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an order says at its end."""

    success: bool
    message: str
    errors: tuple[str, ...] = ()
    more: Data = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class _Order:
    id: str
    node: Node
    call: Call
    act: Callable[[], Outcome]
    polls_left: int | None
    """None = it never ends."""
    done_at_s: float
    data_node: str | None = None
    echo: object = None
    outcome: Outcome | None = None


class Orders:
    """All orders of a run."""

    def __init__(self, clock: Clock, switches: Switches, chance: random.Random) -> None:
        self._clock = clock
        self._switches = switches
        self._chance = chance
        self._orders: dict[str, _Order] = {}
        self._open: list[_Order] = []

    def summary(self) -> Data:
        """How many there were, and those that have not ended."""
        listed = [{"id": order.id, "path": self._path(order)} for order in self._open]
        return {"orders": len(self._orders), "open_orders": listed}

    def accept(
        self,
        node: Node,
        call: Call,
        act: Callable[[], Outcome],
        *,
        echo: object,
        data_node: str | None = None,
    ) -> Answer:
        """Takes an order: `act` is what it does at its end."""
        if rule := call.has_fault("refused"):
            return json_answer({"status": "Failed", "error": rule.args.get("error", "Refused")})
        wanted: object = self._switches.get("order_polls")
        if rule := call.has_fault("order_polls"):
            wanted = int(rule.number("polls", 2))
        if wanted == "random":
            wanted = self._chance.randrange(5)
        never = wanted == "never" or call.has_fault("order_never") is not None
        order = _Order(
            id=str(uuid.UUID(int=self._chance.getrandbits(128), version=4)),
            node=node,
            call=call,
            act=self._bent(call, act),
            polls_left=None if never or not isinstance(wanted, int) else wanted,
            done_at_s=self._clock.monotonic_s() + self._switches.number("order_max_s"),
            data_node=data_node,
            echo=echo,
        )
        if not never and self._switches.text("effect_time") == "at_once":
            outcome = order.act()
            order.act = lambda: outcome
        self._orders[order.id] = order
        self._open.append(order)
        call.accepted()
        if call.has_fault("order_no_message"):
            return json_answer({"status": "Success"})
        message = self._path(order)
        if rule := call.has_fault("order_hostile"):
            message = str(rule.args.get("url", f"http://203.0.113.66/{message}"))
        elif self._switches.text("message_slash") == "with":
            message = f"/{message}"
        return json_answer({"status": "Success", "message": message})

    def _bent(self, call: Call, act: Callable[[], Outcome]) -> Callable[[], Outcome]:
        """What the order really does, where a fault lets it lie."""
        if rule := call.has_fault("order_fail"):
            text = str(rule.args.get("message", "Order failed"))
            return lambda: Outcome(success=False, message=text, errors=(text,))
        if rule := call.has_fault("order_fail_with_effect"):
            text = str(rule.args.get("message", "Order failed"))

            def lying() -> Outcome:
                act()
                return Outcome(success=False, message=text, errors=(text,))

            return lying
        if call.has_fault("order_no_effect"):
            return lambda: Outcome(success=True, message="Done")
        if (rule := call.has_fault("order_partial")) and rule.args.get("says") == "failed":
            text = "Order failed on its way"

            def broken() -> Outcome:
                act()
                return Outcome(success=False, message=text, errors=(text,))

            return broken
        return act

    def _path(self, order: _Order) -> str:
        path = f"monitorapi/{order.node.scope}/orders/{order.id}"
        return f"{path}/{order.data_node}" if order.data_node else path

    def poll(self, request: Request, node: Node, id_: str, data_node: str | None) -> Answer:
        """How an order stands."""
        if request.method not in ("GET", "HEAD"):
            return failed(405, "Method not allowed")
        order = self._orders.get(id_)
        if order is None or order.node is not node or order.data_node != data_node:
            return failed(404, "Order not found")
        if order.call.has_fault("order_missing"):
            return failed(404, "Order not found")
        if order.outcome is None and order.polls_left == 0:
            self._finish(order)
        if order.outcome is None:
            order.polls_left = None if order.polls_left is None else order.polls_left - 1
            return self._pending()
        if order.call.has_fault("order_stuck"):
            return self._pending()
        return json_answer(self._verdict(order.outcome, order.echo))

    def _finish(self, order: _Order) -> None:
        order.outcome = order.act()
        order.call.job_open = order.call.has_fault("order_stuck") is not None
        self._open.remove(order)

    def finish_due(self) -> None:
        """Ends the orders whose time has come."""
        if not self._open:
            return
        now = self._clock.monotonic_s()
        for order in [one for one in self._open if one.done_at_s <= now]:
            if order.polls_left is not None:
                self._finish(order)

    def _pending(self) -> Answer:
        match self._switches.text("order_pending"):
            case "null":
                return json_answer({"request": {}, "response": None})
            case "absent":
                return json_answer({"request": {}})
            case "404":
                return failed(404, "Order not found")
            case "202":
                return json_answer({}, 202)
            case "204":
                return Answer(status=204)
        return json_answer({"request": {}, "response": {}})

    def _verdict(self, outcome: Outcome, echo: object) -> Data:
        if outcome.success:
            if self._switches.text("order_success") == "status":
                return {"status": "completed", "message": outcome.message, **outcome.more}
            response = {"success": True, "message": outcome.message, "errors": list[str]()}
            return {
                "request": {},
                "response": {**response, "node_change_count": -1, **outcome.more},
            }
        errors = list(outcome.errors)
        match self._switches.text("order_failure"):
            case "objects":
                response = {"success": False, "message": outcome.message}
                listed = [{"message": text} for text in errors]
                return {"request": echo, "response": {**response, "errors": listed}}
            case "errors_only":
                return {"request": echo, "response": {"errors": errors}}
            case "status":
                return {"request": echo, "status": "failed", "message": outcome.message}
        response = {"success": False, "message": outcome.message, "errors": errors}
        return {"request": echo, "response": response}
