"""The Director emulator: nodes, orders, the shapes of its resources, and its switches."""

from __future__ import annotations

from typing import Any

import pytest
from director_client import BLUE, GREEN, ONE, TWO, Director

from dsync.emulators import ControlError, Emulator

pytestmark = pytest.mark.integration

REPO = {"name": "Repo_app", "hiddenrepopath": [{"path": "/opt/immune/storage/", "retention": 90}]}
ROUTING: dict[str, Any] = {"policy_name": "rp", "catch_all": "default", "routing_criteria": []}


@pytest.fixture
def node(director: Emulator) -> Director:
    return Director(director)


# ---- the Director itself -----------------------------------------------------------------------


def test_poolinfo_lists_pools_and_machines(node: Director) -> None:
    """Poolinfo tells every pool with its machines."""
    pools = node.call("GET", "/monitorapi/v1/director/poolinfo").json
    assert [(pool["name"], pool["pool_uuid"]) for pool in pools] == [
        ("blue", BLUE),
        ("green", GREEN),
    ]
    assert [one["name"] for one in pools[0]["machines"]] == ["blue-be-1", "blue-be-2", "blue-sh-1"]
    assert pools[0]["machines"][0]["identifier"] == ONE
    health = node.call("GET", "/monitorapi/v1/director/health").json
    assert health["version"]["status"] == "OK"
    assert {"fabric", "api", "lpsm"} <= node.call(
        "GET", "/monitorapi/v1/director/version"
    ).json.keys()


def test_nodes_are_told_by_a_switch(director: Emulator) -> None:
    """Any pool and node named in the switch exists; those that are not, do not."""
    pool, one = "0" * 31 + "a", "0" * 31 + "b"
    director.switches({"nodes": [f"{pool}/{one}/north", {"pool": pool, "node": TWO}]})
    assert len(Director(director, one, pool).get("Repos")) == 3
    assert Director(director).send("GET", "Repos").status == 404
    with pytest.raises(ControlError, match="32 hex digits"):
        director.switches({"nodes": ["blue/one"]})


def test_every_node_is_a_world_of_its_own(director: Emulator) -> None:
    """The same name has another id on another node, and a write shows on its node only."""
    one, two = Director(director, ONE), Director(director, TWO)
    assert one.named("Repos", "default")["id"] != two.named("Repos", "default")["id"]
    one.order("POST", "Repos", REPO)
    assert one.named("Repos", "Repo_app")
    assert two.named("Repos", "Repo_app") is None
    assert director.effects()[0]["scope"] == one.scope


def test_ids_are_the_same_in_every_run(node: Director, director: Emulator) -> None:
    """After a reset the same calls give the same ids."""
    node.order("POST", "Repos", REPO)
    before = node.get("Repos")
    director.reset()
    node.order("POST", "Repos", REPO)
    assert node.get("Repos") == before


def test_a_new_node_has_what_the_vendor_puts_there(node: Director) -> None:
    """The seed of a node is there, and its objects refer to each other."""
    assert [one["name"] for one in node.get("Repos")] == ["default", "_logpoint", "_LogPointAlerts"]
    assert [one["repo_number"] for one in node.get("Repos")] == [1, 2, 3]
    assert node.get("Repos/RepoPaths") == [{"paths": ["/opt/immune/storage/", "/opt/immune/cold/"]}]
    routes = {one["policy_name"]: one for one in node.get("RoutingPolicies")}
    assert "user" not in routes["default"]
    assert [rule["value"] for rule in routes["_LogPointAlerts"]["routing_criteria"]] == [
        "LogPointAlert",
        "UEBA",
    ]
    default = node.named("ProcessingPolicy", "default", "policy_name")
    assert default["routing_policy"] == routes["default"]["id"]
    assert len(node.get("NormalizationPackage")) == 12
    assert [one["source_name"] for one in node.get("EnrichmentSource")] == [
        "host_owners",
        "threat_feed",
    ]
    assert {"name": "JSONCompiledNormalizer", "version": "3.3.0"} in [
        {key: one[key] for key in ("name", "version")}
        for one in node.get("NormalizationPackage/CompiledNormalizers")
    ]
    for resource in ("DeviceGroups", "Users", "UserGroups", "EnrichmentPolicy"):
        for one in node.get(resource):
            assert node.get(f"{resource}/{one['id']}")["id"] == one["id"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/configapi/{pool}/{node}/RoutingPolicy", 404),
        ("GET", "/configapi/{pool}/{node}/RepoPaths", 404),
        ("GET", "/configapi/{pool}/{node}/Repos/64b0c0ffee0000000000a001", 404),
        ("GET", "/configapi/{pool}/00000000000000000000000000000000/Repos", 404),
        ("GET", "/configapi/{pool}", 404),
        ("GET", "//configapi/{pool}/{node}/Repos", 404),
        ("POST", "/configapi/{pool}/{node}/EnrichmentSource", 405),
        ("POST", "/configapi/{pool}/{node}/EnrichmentPolicy/refreshlist", 404),
        ("PATCH", "/configapi/{pool}/{node}/Repos", 405),
        ("GET", "/monitorapi/{pool}/{node}/orders/7f3c2a10-5d1e-4b8f-9a77-0c1d2e3f4a5b", 404),
        ("GET", "/monitorapi/v1/director/unknown", 404),
    ],
)
def test_what_does_not_exist_is_refused(
    node: Director, method: str, path: str, status: int
) -> None:
    """Unknown pools, nodes, resources, ids and methods are refused with a text."""
    answer = node.call(method, path.format(pool=BLUE, node=ONE), {"data": {}})
    assert (answer.status, answer.json["status"]) == (status, "Failed")
    assert answer.json["error"]


def test_the_version_segment_is_optional(node: Director, director: Emulator) -> None:
    """`v1` after `configapi` and `monitorapi` is taken, by switch refused."""
    path = f"/configapi/v1/{node.scope}/Repos"
    assert node.call("GET", path).status == 200
    message = node.send("POST", "Repos", REPO).json["message"]
    polled = f"/{message.replace('monitorapi/', 'monitorapi/v1/')}"
    assert node.call("GET", polled).status == 200
    director.switches({"v1_prefix": "refused"})
    assert node.call("GET", path).status == node.call("GET", polled).status == 404


# ---- tokens ------------------------------------------------------------------------------------


def test_a_token_ends_after_eight_hours_and_is_renewed(node: Director, director: Emulator) -> None:
    """After its life a token gets 401; the secret key, unwrapped, gives a new one."""
    director.advance(8 * 3600 + 1)
    answer = node.send("GET", "Repos")
    assert (answer.status, answer.json) == (401, {"status": "Failed", "error": "Unauthorized"})
    wrapped = node.call("POST", "/refreshToken", {"data": {"secretKey": "demo-secret"}})
    wrong = node.call("POST", "/refreshToken", {"secretKey": "nope"})
    assert (wrapped.status, wrong.status) == (400, 401)
    fresh = node.call("POST", "/refreshToken", {"secretKey": "demo-secret"}).json
    assert (fresh["status"], fresh["tokenDetails"]["secretKey"]) == ("Success", "demo-secret")
    node.call.headers["Authorization"] = f"Bearer {fresh['tokenDetails']['token']}"
    assert len(node.get("Repos")) == 3
    director.advance(8 * 3600 + 1)
    assert node.send("GET", "Repos").status == 401


def test_the_secret_key_may_rotate(node: Director, director: Emulator) -> None:
    """By switch every renewal gives a new key, and the old one is worthless."""
    director.switches({"rotate_secret": True})
    fresh = node.call("POST", "/refreshToken", {"secretKey": "demo-secret"}).json
    assert node.call("POST", "/refreshToken", {"secretKey": "demo-secret"}).status == 401
    key = fresh["tokenDetails"]["secretKey"]
    assert node.call("POST", "/refreshToken", {"secretKey": key}).status == 200


def test_tokens_are_revoked_by_a_switch(node: Director, director: Emulator) -> None:
    """Setting the tokens makes all others worthless at once."""
    director.switches({"tokens": ["other"], "token_life_s": 5})
    assert node.send("GET", "Repos").status == 401
    node.call.headers["Authorization"] = "Bearer other"
    assert node.send("GET", "Repos").status == 200
    director.advance(6)
    assert node.send("GET", "Repos").status == 401


# ---- orders ------------------------------------------------------------------------------------


def test_a_write_is_accepted_pending_then_done(node: Director, director: Emulator) -> None:
    """The object appears when the order is done: after two polls that found it pending."""
    accepted = node.send("POST", "Repos", REPO)
    assert accepted.json.keys() == {"status", "message"}
    path = accepted.json["message"]
    assert path.startswith(f"monitorapi/{node.scope}/orders/")
    for _ in range(2):
        assert node.call("GET", f"/{path}").json == {"request": {}, "response": {}}
    assert (node.named("Repos", "Repo_app"), director.effects()) == (None, [])
    done = node.call("GET", f"/{path}").json
    assert done["response"]["success"] is True
    assert done["response"]["message"] == "Repos created"
    assert node.call("GET", f"/{path}").json == done
    [effect] = director.effects()
    assert (effect["kind"], effect["key"]) == ("create", "Repo_app")
    assert effect["id"] == node.named("Repos", "Repo_app")["id"]


def test_an_order_is_done_in_time_without_a_poll(node: Director, director: Emulator) -> None:
    """Nobody has to poll: after a while the effect is there anyway."""
    node.send("POST", "Repos", REPO)
    assert node.named("Repos", "Repo_app") is None
    director.advance(31)
    assert node.named("Repos", "Repo_app")


def test_an_order_may_never_end(node: Director, director: Emulator) -> None:
    """`never` stays pending whatever the time, and has no effect."""
    director.switches({"order_polls": "never"})
    path = node.send("POST", "Repos", REPO).json["message"]
    for _ in range(5):
        director.advance(1000)
        assert node.call("GET", f"/{path}").json["response"] == {}
    assert node.named("Repos", "Repo_app") is None


def test_the_effect_may_come_at_once(node: Director, director: Emulator) -> None:
    """By switch the object is there as the call is accepted, though the order is pending."""
    director.switches({"effect_time": "at_once"})
    path = node.send("POST", "Repos", REPO).json["message"]
    assert node.named("Repos", "Repo_app")
    assert node.call("GET", f"/{path}").json["response"] == {}
    assert node.follow(path)["success"] is True
    assert len(director.effects()) == 1


@pytest.mark.parametrize(
    ("form", "status", "body"),
    [
        ("null", 200, {"request": {}, "response": None}),
        ("absent", 200, {"request": {}}),
        ("404", 404, {"status": "Failed", "error": "Order not found"}),
        ("202", 202, {}),
        ("204", 204, None),
    ],
)
def test_pending_orders_have_many_faces(
    node: Director, director: Emulator, form: str, status: int, body: object
) -> None:
    """A pending order shows as the switch says."""
    director.switches({"order_pending": form})
    path = node.send("POST", "Repos", REPO).json["message"]
    answer = node.call("GET", f"/{path}")
    assert (answer.status, answer.json if answer.body else None) == (status, body)


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("texts", {"response": {"success": False, "message": "M", "errors": ["M"]}}),
        ("objects", {"response": {"success": False, "message": "M", "errors": [{"message": "M"}]}}),
        ("errors_only", {"response": {"errors": ["M"]}}),
        ("status", {"status": "failed", "message": "M"}),
    ],
)
def test_failed_orders_have_many_faces(
    node: Director, director: Emulator, form: str, wanted: dict[str, Any]
) -> None:
    """A failed order tells why in the form that the switch says, and echoes the request."""
    director.switches({"order_failure": form, "order_polls": 0})
    path = node.send("POST", "RoutingPolicies", {**ROUTING, "catch_all": "nowhere"}).json["message"]
    text = "Repo not found: nowhere"
    shown = node.call("GET", f"/{path}").json
    echo = shown.pop("request")
    assert echo["data"]["catch_all"] == "nowhere"
    assert str(shown) == str(wanted).replace("'M'", repr(text))
    assert director.effects() == []


def test_a_done_order_may_say_so_in_other_words(node: Director, director: Emulator) -> None:
    """By switch a done order has a top-level status only."""
    director.switches({"order_success": "status", "order_polls": 0})
    path = node.send("POST", "Repos", REPO).json["message"]
    done = node.call("GET", f"/{path}").json
    assert done == {"status": "completed", "message": "Repos created"}


@pytest.mark.parametrize(
    ("fault", "success", "there"),
    [
        ("order_fail", False, False),
        ("order_fail_with_effect", False, True),
        ("order_no_effect", True, False),
    ],
)
def test_orders_that_lie(
    node: Director, director: Emulator, fault: str, success: bool, there: bool
) -> None:
    """An order's verdict and its effect may differ, for the calls that a rule names."""
    director.faults([{"match": {"method": "POST", "nth": 2}, "fault": fault, "message": "no"}])
    assert node.order("POST", "Repos", {**REPO, "name": "Repo_1"})["success"] is True
    assert node.order("POST", "Repos", {**REPO, "name": "Repo_2"})["success"] is success
    assert (node.named("Repos", "Repo_2") is not None) is there


def test_orders_that_cannot_be_followed(node: Director, director: Emulator) -> None:
    """An accepted write may name no order, another host, or an order that is not there."""
    director.faults(
        [
            {"match": {"nth": 1}, "fault": "order_no_message"},
            {"match": {"nth": 2}, "fault": "order_hostile"},
            {"match": {"nth": 3}, "fault": "order_missing"},
            {"match": {"nth": 4}, "fault": "refused", "error": "Busy"},
        ]
    )
    answers = [node.send("POST", "Repos", {**REPO, "name": f"Repo_{n}"}) for n in range(4)]
    assert answers[0].json == {"status": "Success"}
    assert answers[1].json["message"].startswith("http://203.0.113.66/monitorapi/")
    assert node.call("GET", f"/{answers[2].json['message']}").status == 404
    assert (answers[3].status, answers[3].json) == (200, {"status": "Failed", "error": "Busy"})
    director.advance(31)
    names = [one["name"] for one in node.get("Repos")][3:]
    assert names == ["Repo_0", "Repo_1", "Repo_2"]


def test_the_path_of_an_order_may_have_a_slash(node: Director, director: Emulator) -> None:
    """With or without the leading slash it is the same order."""
    director.switches({"message_slash": "with"})
    message = node.send("POST", "Repos", REPO).json["message"]
    assert message.startswith("/monitorapi/")
    assert node.follow(message)["success"] is True


def test_a_fetch_order_has_rows_under_its_data_node(node: Director, director: Emulator) -> None:
    """A fetch is read at the path that `message` names, and nowhere else."""
    accepted = node.send("POST", "Repos/RemoteRepos/fetch", {}).json["message"]
    assert accepted.endswith(f"/{ONE}")
    assert node.call("GET", f"/{accepted.rpartition('/')[0]}").status == 404
    rows = node.follow(accepted)["rows"]
    assert rows[0] == {
        "repo": "127.0.0.1:5504/default", "name": "default", "ip": "127.0.0.1", "port": 5504,
    }  # fmt: skip
    assert {row["ip"] for row in rows} == {"127.0.0.1", "198.51.100.12", "198.51.100.13"}
    assert director.writes() == 0


# ---- resources ---------------------------------------------------------------------------------


def test_a_repo_is_written_and_read_under_other_names(node: Director) -> None:
    """`hiddenrepopath` reads as `repopath`; an edit replaces all, and a name stays."""
    remote = [{"ha_li": "198.51.100.7", "ha_day": 30}]
    node.order("POST", "Repos", {**REPO, "repoha": remote})
    repo = node.named("Repos", "Repo_app")
    assert repo["repopath"] == REPO["hiddenrepopath"]
    assert "hiddenrepopath" not in repo
    assert (repo["repo_number"], repo["repoha"], repo["active"]) == (4, remote, True)
    tiers = [{"path": "/opt/immune/cold/", "retention": 5}]
    node.order("PUT", f"Repos/{repo['id']}", {"name": "Other", "hiddenrepopath": tiers})
    edited = node.get(f"Repos/{repo['id']}")
    assert (edited["name"], edited["repopath"], edited["repoha"]) == ("Repo_app", tiers, [])
    node.order("DELETE", f"Repos/{repo['id']}")
    assert node.named("Repos", "Repo_app") is None


def test_an_edit_may_keep_what_it_omits(node: Director, director: Emulator) -> None:
    """By switch an omitted optional list stays."""
    director.switches({"edit_omitted": "keep"})
    remote = [{"ha_li": "198.51.100.7", "ha_day": 30}]
    node.order("POST", "Repos", {**REPO, "repoha": remote})
    id_ = node.named("Repos", "Repo_app")["id"]
    node.order("PUT", f"Repos/{id_}", {"hiddenrepopath": REPO["hiddenrepopath"]})
    assert node.get(f"Repos/{id_}")["repoha"] == remote


def test_a_normalization_policy_is_written_as_texts(node: Director, director: Emulator) -> None:
    """Comma-separated texts read as lists; `compiled_normalizer` shows as the switch says."""
    ids = [one["id"] for one in node.get("NormalizationPackage")[:2]]
    names = "JSONCompiledNormalizer,CEFCompiledNormalizer"
    data = {"name": "np", "norm_packages": ",".join(ids), "compiled_normalizer": names}
    node.order("POST", "NormalizationPolicy", data)
    policy = node.named("NormalizationPolicy", "np")
    assert policy["normalization_packages"] == ids
    assert "norm_packages" not in policy
    assert policy["compiled_normalizer"] == names.split(",")
    one = f"NormalizationPolicy/{policy['id']}"
    for form, listed, got in (
        ("csv", names, names),
        ("absent", None, None),
        ("get_only", None, names.split(",")),
    ):
        director.switches({"compiled_normalizer": form})
        shown = node.named("NormalizationPolicy", "np")
        assert shown.get("compiled_normalizer") == listed
        assert node.get(one).get("compiled_normalizer") == got
    director.switches({"compiled_normalizer": "list"})
    node.order("PUT", one, {"norm_packages": ids[0]})
    cleared = node.get(one)
    assert (cleared["normalization_packages"], cleared["compiled_normalizer"]) == (ids[:1], [])


def test_a_processing_policy_refers_by_name_and_by_id(node: Director) -> None:
    """Normalization by name, enrichment and routing by id, `None` for none."""
    node.order("POST", "RoutingPolicies", ROUTING)
    data = {
        "policy_name": "pp",
        "norm_policy": "_logpoint",
        "enrich_policy": node.named("EnrichmentPolicy", "ep_hosts")["id"],
        "routing_policy": node.named("RoutingPolicies", "rp", "policy_name")["id"],
        "active": True,
    }
    assert node.order("POST", "ProcessingPolicy", data)["success"] is True
    policy = node.named("ProcessingPolicy", "pp", "policy_name")
    assert {key: policy[key] for key in data} == data
    path = f"ProcessingPolicy/{policy['id']}"
    assert node.send("PUT", path, data).status == 400
    bare = {**data, "id": policy["id"], "norm_policy": "None", "enrich_policy": "None"}
    assert node.order("PUT", path, bare)["success"] is True
    for key, wrong in (
        ("norm_policy", policy["routing_policy"]),
        ("enrich_policy", "ep_hosts"),
        ("routing_policy", "rp"),
        ("routing_policy", ""),
    ):
        answer = node.order("PUT", path, {**bare, key: wrong})
        assert (answer["success"], "not found" in answer["message"]) == (False, True)


def test_an_enrichment_policy_reads_a_little_differently(node: Director) -> None:
    """Get leaves `type` out of simple rules, List has it."""
    listed = node.named("EnrichmentPolicy", "ep_hosts")
    [specification] = listed["specifications"]
    assert specification["rules"][0]["type"] == "string"
    got = node.get(f"EnrichmentPolicy/{listed['id']}")
    assert "type" not in got["specifications"][0]["rules"][0]


def test_devices_and_groups_keep_each_other_in_step(node: Director, director: Emulator) -> None:
    """Membership shows on both sides, by switch on the written side only; names change in reads."""
    group = node.named("DeviceGroups", "linux")["id"]
    data = {
        "name": "fw-01", "ip": ["192.0.2.10", "fw-01.example.test"], "availability": "Major",
        "confidentiality": "Minor", "integrity": "Minimal", "devicegroup": [group],
    }  # fmt: skip
    node.order("POST", "Devices", data)
    device = node.named("Devices", "fw-01")
    assert (device["device_groups"], device["has_hostname"]) == ([group], True)
    assert device["risk_values"]["availability"] == "Major"
    assert node.get(f"DeviceGroups/{group}")["devices"] == [device["id"]]
    node.order("PUT", f"DeviceGroups/{group}", {"name": "linux", "description": ""})
    assert node.get(f"Devices/{device['id']}")["device_groups"] == []
    director.switches({"membership": "one_sided"})
    node.order("PUT", f"Devices/{device['id']}", data)
    assert node.get(f"DeviceGroups/{group}")["devices"] == []
    gone = node.order("DELETE", f"Devices/{device['id']}")
    assert gone["delete_remote_device"] == data["ip"]


def test_stale_resources_show_changes_after_a_refresh(node: Director, director: Emulator) -> None:
    """A path that appeared on the node shows only when its refresh order is done."""
    seed = {"resource": "RepoPaths", "objects": ["/opt/immune/new/"], "stale": True, "node": ONE}
    director.seed(seed)
    assert "/opt/immune/new/" not in node.get("Repos/RepoPaths")[0]["paths"]
    assert node.order("POST", "Repos/RepoPaths/refreshlist", {})["success"] is True
    assert "/opt/immune/new/" in node.get("Repos/RepoPaths")[0]["paths"]
    source = {"source_name": "vip_users", "source_type": "CSV"}
    director.seed({"resource": "EnrichmentSource", "objects": [source], "stale": True})
    assert node.named("EnrichmentSource", "vip_users", "source_name") is None
    node.order("POST", "EnrichmentSource/refreshlist", {})
    assert node.named("EnrichmentSource", "vip_users", "source_name")
    assert director.writes() == 0


def test_staleness_can_be_switched_off(node: Director, director: Emulator) -> None:
    """Without staleness every read is true."""
    director.switches({"staleness": False})
    director.seed({"resource": "RepoPaths", "objects": ["/opt/immune/new/"], "stale": True})
    assert "/opt/immune/new/" in node.get("Repos/RepoPaths")[0]["paths"]


def test_other_resources_may_lag(node: Director, director: Emulator) -> None:
    """By switch a finished order shows in lists only some time later."""
    director.switches({"read_lag_s": 20})
    node.order("POST", "Repos", REPO)
    assert node.named("Repos", "Repo_app") is None
    director.advance(21)
    assert node.named("Repos", "Repo_app")


def test_enrichment_sources_in_their_odd_forms(node: Director, director: Emulator) -> None:
    """Lists may have spaces at the end of keys and values, or `_id`."""
    director.switches({"enrichment_source": "spaces"})
    assert node.get("EnrichmentSource")[0]["source_name "] == "host_owners "
    director.switches({"enrichment_source": "underscore_id"})
    assert {"_id", "source_name"} <= node.get("EnrichmentSource")[0].keys()


def test_every_object_has_a_key_nobody_knows(node: Director, director: Emulator) -> None:
    """A client has to ignore unknown keys; a switch takes them away."""
    assert "service_hint" in node.get("Repos")[0]
    director.switches({"extra_fields": False})
    assert "service_hint" not in node.get("Repos")[0]


# ---- what is refused ---------------------------------------------------------------------------

RULE = {"type": "KeyPresent", "key": "k", "value": "", "repo": "default", "drop": "store"}
CRITERION = {"type": "KeyPresents", "key": "k", "value": ""}
SIMPLE = {"category": "simple", "operation": "Equals", "event_key": "e", "source_key": "s"}
SPECIFICATION = {"source": "host_owners", "criteria": [CRITERION], "rules": [SIMPLE]}


ROUTING_CRITERION = {**CRITERION, "type": "KeyPresent"}
SPACED = "CEFCompiledNormalizer, JSONCompiledNormalizer"


def routing(**changes: object) -> dict[str, object]:
    return {**ROUTING, "routing_criteria": [{**RULE, **changes}]}


def enrichment(**changes: object) -> dict[str, object]:
    return {"name": "ep", "specifications": [{**SPECIFICATION, **changes}]}


WRONG: list[tuple[str, str, object]] = [
    ("missing_key", "Repos", {"name": "r"}),
    ("missing_key", "Repos", {**REPO, "hiddenrepopath": [{"path": "/opt/immune/storage/"}]}),
    ("missing_key", "RoutingPolicies", {"policy_name": "rp"}),
    ("missing_key", "EnrichmentPolicy", enrichment(rules=[{**SIMPLE, "category": "type_based"}])),
    ("missing_key", "ProcessingPolicy", {"policy_name": "pp"}),
    ("wrong_type", "Repos", {**REPO, "hiddenrepopath": [{"path": "/", "retention": "90"}]}),
    ("wrong_type", "Repos", {**REPO, "hiddenrepopath": [{"path": "/", "retention": True}]}),
    ("wrong_type", "RoutingPolicies", {**ROUTING, "routing_criteria": "none"}),
    ("wrong_type", "RoutingPolicies", {**ROUTING, "active": "true"}),
    ("unknown_enum", "RoutingPolicies", routing(type="KeyPresents")),
    ("unknown_enum", "EnrichmentPolicy", enrichment(criteria=[ROUTING_CRITERION])),
    ("unknown_enum", "EnrichmentPolicy", enrichment(rules=[{**SIMPLE, "operation": "equals"}])),
    ("unknown_reference", "Repos", {**REPO, "hiddenrepopath": [{"path": "/x/", "retention": 1}]}),
    ("unknown_reference", "RoutingPolicies", {**ROUTING, "catch_all": "nowhere"}),
    ("unknown_reference", "RoutingPolicies", routing(repo="nowhere")),
    ("unknown_reference", "NormalizationPolicy", {"name": "np", "norm_packages": "64b0c0ff"}),
    ("unknown_reference", "NormalizationPolicy", {"name": "np", "compiled_normalizer": "X"}),
    ("unknown_reference", "NormalizationPolicy", {"name": "np", "compiled_normalizer": SPACED}),
    ("unknown_reference", "EnrichmentPolicy", enrichment(source="Host_Owners")),
    ("duplicate_name", "Repos", {**REPO, "name": "default"}),
    ("duplicate_name", "RoutingPolicies", {**ROUTING, "policy_name": "default"}),
    ("norm_packages_list", "NormalizationPolicy", {"name": "np", "norm_packages": []}),
    ("no_rules", "EnrichmentPolicy", enrichment(rules=[])),
    ("unknown_key", "Repos", {**REPO, "colour": "red"}),
]  # fmt: skip


@pytest.mark.parametrize(("check", "resource", "data"), WRONG)
def test_a_wrong_body_is_refused_where_the_switch_says(
    node: Director, director: Emulator, check: str, resource: str, data: object
) -> None:
    """Each check answers 400, or fails the order, or lets pass; refused bodies change nothing."""
    director.switches({"order_polls": 0, f"check_{check}": "sync"})
    refused = node.send("POST", resource, data)
    assert (refused.status, refused.json["status"]) == (400, "Failed")
    assert refused.json["error"]
    director.switches({f"check_{check}": "order"})
    failed = node.order("POST", resource, data)
    assert (failed["success"], failed["message"]) == (False, refused.json["error"].split("; ")[0])
    assert director.effects() == []
    director.switches({f"check_{check}": "off"})
    assert node.order("POST", resource, data)["success"] is True


def test_the_defaults_of_the_checks(director: Emulator) -> None:
    """What the API itself can see is a 400; what only the node can see fails the order."""
    checks = {key[6:]: value for key, value in director.switches().items() if key[:6] == "check_"}
    orders = {"unknown_reference", "duplicate_name", "norm_packages_list", "no_rules", "in_use"}
    orders |= {"unknown_proxy", "needs_log_ts", "query", "vendor_object", "user_active"}
    assert {key for key, value in checks.items() if value == "order"} == orders
    off = {"unknown_key", "unknown_logpoint", "manual_limits"}
    assert {key for key, value in checks.items() if value == "off"} == off


def test_a_body_without_its_wrapper_is_refused(node: Director, director: Emulator) -> None:
    """`data` is due, also where it is empty; a body that is no JSON is a 400."""
    path = f"{node.base}/Repos"
    assert node.call("POST", path, REPO).status == 400
    assert node.call("POST", path, b"{nope").status == 400
    assert node.call("POST", f"{path}/RepoPaths/refreshlist").status == 400
    director.switches({"check_no_data_wrapper": "order", "order_polls": 0})
    message = node.call("POST", path, REPO).json["message"]
    assert node.follow(message)["success"] is False
    director.switches({"check_no_data_wrapper": "off"})
    message = node.call("POST", path, REPO).json["message"]
    assert node.follow(message)["success"] is True


def test_an_object_in_use_is_not_deleted(node: Director, director: Emulator) -> None:
    """A repo, a normalization, an enrichment and a routing policy that others need stay."""
    director.switches({"order_polls": 0})
    enrich = node.named("EnrichmentPolicy", "ep_hosts")["id"]
    pp = node.named("ProcessingPolicy", "default", "policy_name")
    node.order("PUT", f"ProcessingPolicy/{pp['id']}", {**pp, "enrich_policy": enrich})
    repo = f"Repos/{node.named('Repos', 'default')['id']}"
    for path in (
        repo,
        f"NormalizationPolicy/{node.named('NormalizationPolicy', '_logpoint')['id']}",
        f"EnrichmentPolicy/{enrich}",
        f"RoutingPolicies/{pp['routing_policy']}",
    ):
        answer = node.order("DELETE", path)
        assert (answer["success"], "in use by" in answer["message"]) == (False, True)
    director.switches({"check_in_use": "off"})
    assert node.order("DELETE", repo)["success"] is True


def test_an_edit_onto_a_taken_name_fails(node: Director) -> None:
    """A rename to a name that another object has fails; an edit under its own name does not."""
    node.order("POST", "RoutingPolicies", ROUTING)
    id_ = node.named("RoutingPolicies", "rp", "policy_name")["id"]
    assert node.order("PUT", f"RoutingPolicies/{id_}", ROUTING)["success"] is True
    taken = {**ROUTING, "policy_name": "default"}
    assert node.order("PUT", f"RoutingPolicies/{id_}", taken)["success"] is False
    free = {**ROUTING, "policy_name": "rp2"}
    assert node.order("PUT", f"RoutingPolicies/{id_}", free)["success"] is True


def test_an_unknown_id_is_a_404_or_a_failed_order(node: Director, director: Emulator) -> None:
    """Edits and deletes of what is not there are refused where the switch says."""
    path = "Repos/64b0c0ffee0000000000a001"
    assert node.send("PUT", path, REPO).status == 404
    assert node.send("DELETE", path).status == 404
    director.switches({"check_unknown_id": "order"})
    assert node.order("DELETE", path)["success"] is False


def test_twice_the_same_create_in_flight_is_told_by_the_order(node: Director) -> None:
    """Two creates of one name are both accepted; the second order fails."""
    first, second = (node.send("POST", "Repos", REPO).json["message"] for _ in range(2))
    assert node.follow(first)["success"] is True
    assert "already exists" in node.follow(second)["message"]


# ---- seeds -------------------------------------------------------------------------------------


def test_seeds_change_nodes_behind_the_back(node: Director, director: Emulator) -> None:
    """A seed puts, changes and removes objects, in write or read names, without effects."""
    read = {"name": "Repo_x", "repopath": [{"path": "/opt/immune/cold/", "retention": 1}]}
    director.seed([{"resource": "Repos", "objects": [read], "node": "blue-be-1"}])
    assert node.named("Repos", "Repo_x")["repopath"] == read["repopath"]
    assert Director(director, TWO).named("Repos", "Repo_x") is None
    director.seed({"resource": "Repos", "objects": [{"name": "Repo_x", "active": False}]})
    assert node.named("Repos", "Repo_x")["active"] is False
    director.seed({"resource": "Repos", "remove": ["Repo_x"], "node": ONE})
    assert node.named("Repos", "Repo_x") is None
    assert director.effects() == []
    for wrong in ({"resource": "Nope"}, {"resource": "Repos", "node": "nobody"}, {}):
        with pytest.raises(ControlError):
            director.seed(wrong)


def test_the_state_shows_the_truth_by_node(node: Director, director: Emulator) -> None:
    """State has every object of every node, and the orders that are open."""
    director.switches({"read_lag_s": 60})
    node.order("POST", "Repos", REPO)
    node.send("POST", "Repos", {**REPO, "name": "Repo_2"})
    state: Any = director.state()
    repos = [one["name"] for one in state["nodes"][node.scope]["resources"]["Repos"]]
    assert repos == ["default", "_logpoint", "_LogPointAlerts", "Repo_app"]
    assert len(state["open_orders"]) == 1


def test_writes_are_counted_apart_from_polls_and_refreshes(
    node: Director, director: Emulator
) -> None:
    """Only creates, edits and deletes are writes; templates name the variables."""
    node.order("POST", "Repos", REPO)
    node.order("POST", "EnrichmentSource/refreshlist", {})
    node.call("POST", "/refreshToken", {"secretKey": "demo-secret"})
    assert director.writes() == 1
    calls: Any = director.counts()["calls"]
    assert calls == {
        "GET /monitorapi/{pool}/{node}/orders/{id}": 6,
        "POST /configapi/{pool}/{node}/EnrichmentSource/refreshlist": 1,
        "POST /configapi/{pool}/{node}/Repos": 1,
        "POST /refreshToken": 1,
    }
