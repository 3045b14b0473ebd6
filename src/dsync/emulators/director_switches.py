"""The switches of the Director emulator, and the faults of its orders.

Each rule that a body may break is a check of its own, and a switch `check_…` says whether the
answer is a 400 (`sync`), a failed order (`order`), or nothing (`off`).
"""

from __future__ import annotations

from .switches import Switch

__all__ = ["FAULTS", "SWITCHES"]

_MODES = ("sync", "order", "off")


def _check(default: str, doc: str) -> Switch:
    return Switch(default=default, kind="choice", words=_MODES, doc=doc)


SWITCHES: dict[str, Switch] = {
    "nodes": Switch(
        default=[],
        kind="list",
        doc="the nodes: `POOL/NODE/NAME/ADDRESS` (the last two may be left out), or {pool, node, "
        "name, pool_name, address}; "
        "empty = pools blue (two back ends, a search head) and green (all in one)",
    ),
    "tokens": Switch(default=["demo"], kind="list", doc="bearer tokens that are valid from now on"),
    "token_life_s": Switch(default=28_800, kind="number", doc="how long any token is valid"),
    "secret_key": Switch(default="demo-secret", kind="text", doc="what refreshToken takes"),
    "token_user": Switch(
        default="admin",
        kind="text",
        doc="the user whose tokens they are: who creates, and whose alert rules are `my` rules",
    ),
    "rotate_secret": Switch(default=False, kind="flag", doc="refreshToken gives a new secret key"),
    "v1_prefix": Switch(
        default="accepted",
        kind="choice",
        words=("accepted", "refused"),
        doc="`/configapi/v1/…` and `/monitorapi/v1/POOL/…`",
    ),
    "message_slash": Switch(
        default="without",
        kind="choice",
        words=("without", "with"),
        doc="leading slash of the order's path in `message`",
    ),
    "order_polls": Switch(
        default=2,
        kind="int",
        words=("never", "random"),
        doc="polls that find an order pending before one finds it done",
    ),
    "order_max_s": Switch(
        default=30, kind="number", doc="after so long an order is done without being polled"
    ),
    "order_pending": Switch(
        default="empty",
        kind="choice",
        words=("empty", "null", "absent", "404", "202", "204"),
        doc="how a pending order looks: its `response`, or a status",
    ),
    "order_success": Switch(
        default="response",
        kind="choice",
        words=("response", "status"),
        doc="a done order says `response.success`, or only a top-level `status`",
    ),
    "order_failure": Switch(
        default="texts",
        kind="choice",
        words=("texts", "objects", "errors_only", "status"),
        doc="a failed order: `errors` as texts or objects, without `success`, or a top-level "
        "`status: failed`",
    ),
    "effect_time": Switch(
        default="finish",
        kind="choice",
        words=("finish", "at_once"),
        doc="when an object changes: as its order finishes, or as the call is accepted",
    ),
    "staleness": Switch(
        default=True, kind="flag", doc="resources with a refreshlist show changes only after it"
    ),
    "read_lag_s": Switch(
        default=0, kind="number", doc="other resources show changes so much later"
    ),
    "edit_omitted": Switch(
        default="clear",
        kind="choice",
        words=("clear", "keep"),
        doc="an optional key that an edit omits",
    ),
    "membership": Switch(
        default="both",
        kind="choice",
        words=("both", "one_sided"),
        doc="devices and device groups keep each other's lists in step",
    ),
    "compiled_normalizer": Switch(
        default="list",
        kind="choice",
        words=("list", "csv", "absent", "get_only"),
        doc="how it shows in a NormalizationPolicy that is read",
    ),
    "enrichment_source": Switch(
        default="plain",
        kind="choice",
        words=("plain", "spaces", "underscore_id"),
        doc="keys and values with a trailing space in lists, or `_id` for `id`",
    ),
    "get_omits_rule_type": Switch(
        default=True,
        kind="flag",
        doc="Get of an EnrichmentPolicy leaves `type` out of simple rules",
    ),
    "distributed_collectors": Switch(
        default="nested",
        kind="choice",
        words=("nested", "flat"),
        doc="their list: an array in an array, or a plain one",
    ),
    "collector_addresses": Switch(
        default="list",
        kind="choice",
        words=("list", "text"),
        doc="`proxy_ip` and `hostname` of a collector that is read: a list, or one written as text",
    ),
    "alert_rows": Switch(
        default="flat",
        kind="choice",
        words=("flat", "nested"),
        doc="a fetched alert rule: the names of a write, or nested as a node exports it",
    ),
    "alert_jinja": Switch(
        default="kept",
        kind="choice",
        words=("kept", "ignored"),
        doc="`apply_jinja_template` of an alert rule, which not every version knows",
    ),
    "my_rules": Switch(
        default="owner",
        kind="choice",
        words=("owner", "all"),
        doc="MyAlertRules: those that `token_user` owns, or those of everybody but the vendor",
    ),
    "extra_fields": Switch(
        default=True, kind="flag", doc="every object that is read has a key nobody knows"
    ),
    "shuffle_lists": Switch(
        default=False, kind="flag", doc="lists come in another order each time"
    ),
    "random_seed": Switch(default=1, kind="int", doc="for order ids, tokens and random polls"),
    "check_body_json": _check("sync", "the body is no JSON object"),
    "check_no_data_wrapper": _check("sync", "the body has no `data`"),
    "check_missing_key": _check("sync", "a mandatory key is missing"),
    "check_wrong_type": _check("sync", "a value has another JSON type"),
    "check_unknown_enum": _check("sync", "a value is not one of the words that exist"),
    "check_bad_value": _check("sync", "a value is out of its range or form, or beside another one"),
    "check_no_owner": _check("sync", "a collector names neither a device nor a policy"),
    "check_two_time_units": _check("sync", "an alert rule has time ranges in several units"),
    "check_body_id": _check("sync", "an edit of a ProcessingPolicy without `id` in its body"),
    "check_unknown_id": _check("sync", "the id in the path is not on the node (sync: 404)"),
    "check_unknown_key": _check("off", "a key that nobody knows"),
    "check_unknown_reference": _check("order", "a repo, path, package, policy … is not there"),
    "check_unknown_proxy": _check("order", "`proxy_ip` is no address of a device that is a proxy"),
    "check_unknown_logpoint": _check("off", "`ha_li` is no private address of a remote Logpoint"),
    "check_needs_log_ts": _check("order", "a delay interval without `timestamp_on` = log_ts"),
    "check_manual_limits": _check("off", "limits of alert rules that only the manual tells"),
    "check_query": _check("order", "a query that is validated is not valid"),
    "check_duplicate_name": _check("order", "the natural key is taken"),
    "check_norm_packages_list": _check("order", "norm_packages is no text"),
    "check_no_rules": _check("order", "an enrichment specification has no rules"),
    "check_in_use": _check("order", "another object still needs what is to be deleted"),
    "check_vendor_object": _check("order", "an object of the vendor is to be changed or deleted"),
    "check_user_active": _check("order", "a user who is active is to be deleted"),
}

FAULTS: dict[str, str] = {
    "refused": "HTTP 200 whose `status` is not Success; `error`: its text",
    "order_fail": "the order fails and has no effect; `message`: its text",
    "order_fail_with_effect": "the order says it failed, and the effect is there",
    "order_no_effect": "the order says success, and nothing has changed",
    "order_partial": "the order says success, and half of the keys have changed; `says`: `failed`",
    "order_never": "the order stays pending for ever and has no effect",
    "order_stuck": "the effect is there, and the order stays pending for ever",
    "order_polls": "this order is pending for `polls` polls",
    "order_missing": "the order's path answers 404; the effect happens",
    "order_hostile": "`message` is a URL of another host; `url`: which",
    "order_no_message": "accepted, without a `message` to follow",
}
"""Faults of orders, for rules beside those of the wire."""
