"""The N2F emulator: users, values of axes, seeds."""

from __future__ import annotations

from typing import Any

import pytest
from n2f_client import BOSS, ENT1, ENT2, NAMES, PLATES_1, PLATES_2, SUBPOSTS_1, N2f

from dsync.emulators import ControlError, Emulator

pytestmark = pytest.mark.integration

WHOLE: dict[str, Any] = {
    "mail": "nora.new@example.test",
    "firstname": "Nora",
    "lastname": "New",
    "company": ENT1,
    "role": "Manager",
    "profile": "Standard",
    "managerMail": "",
    "canCreateVehicle": "OnlyCompany",
    "personnalCarHaveToBeApproved": False,
    "removeHomeWorkDistance": True,
    "culture": "fr",
    "currencyIsoCode": "EUR",
    "jobTitle": "TEAM LEAD",
    "employeeNumber": "00000000042",
    "structure": "L3",
    "gotProPayment": False,
    "accountingAuxiliaryAccount": "500101",
    "canRaiseLimits": False,
    "authMode": "Sso",
}
HIDDEN = {
    "defaultCostCenter": "CC1",
    "ssoLogin": "nora",
    "accountingAuxiliaryNotReimbursableAccount": "500201",
    "canDefineHisAnalytics": "No",
}


def held(emulator: Emulator, mail: str) -> dict[str, Any]:
    users: list[dict[str, Any]] = emulator.state()["users"]  # type: ignore[assignment]
    return next(user for user in users if user["mail"] == mail)


# ---- users: upsert -----------------------------------------------------------------------------


def test_a_user_is_created_then_changed(n2f: N2f, n2f_emulator: Emulator) -> None:
    """The same POST creates with 201 and changes with 200; all fields are read as written."""
    made = n2f("POST", "users", WHOLE)
    uuid = made.json["response"]["uuid"]
    assert made.status == 201
    assert n2f.user(WHOLE["mail"]) == {"uuid": uuid, **WHOLE}
    again = n2f("POST", "users", {**WHOLE, "firstname": "Norah"})
    assert (again.status, again.json) == (200, {"response": {"uuid": uuid}})
    assert n2f.user(WHOLE["mail"])["firstname"] == "Norah"
    kinds = [(one["kind"], one["resource"], one["key"]) for one in n2f_emulator.effects()]
    assert kinds == [(kind, "users", WHOLE["mail"]) for kind in ("create", "update")]


def test_what_is_left_out_stays_and_null_clears(n2f: N2f) -> None:
    """A partial body changes what it has; null takes a value away."""
    n2f("POST", "users", WHOLE)
    body = {"mail": WHOLE["mail"], "jobTitle": None, "removeHomeWorkDistance": None}
    assert n2f("POST", "users", body).status == 200
    user = n2f.user(WHOLE["mail"])
    assert (user["jobTitle"], user["removeHomeWorkDistance"]) == (None, False)
    assert user["firstname"] == "Nora"


def test_a_mail_is_lower_case(n2f: N2f) -> None:
    """A mail is one key in any case, and read in lower case; so is a manager's."""
    assert n2f.save("New.User@Example.TEST", managerMail=BOSS.upper()).status == 201
    assert n2f.save("NEW.USER@example.test").status == 200
    assert n2f.user("new.user@example.test")["managerMail"] == BOSS
    assert n2f("DELETE", "users/NEW.User@example.test").status == 204


def test_hidden_fields_are_kept_and_never_read(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Four fields are taken and never shown, unless a switch shows them."""
    n2f("POST", "users", {**WHOLE, **HIDDEN})
    assert not HIDDEN.keys() & n2f.user(WHOLE["mail"]).keys()
    assert held(n2f_emulator, WHOLE["mail"]).items() >= HIDDEN.items()
    n2f_emulator.switches({"write_only": []})
    assert n2f.user(WHOLE["mail"]).items() >= HIDDEN.items()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mail": None}, "mail"),
        ({"mail": ""}, "mail"),
        ({"mail": "nobody"}, "mail"),
        ({"mail": " a@example.test"}, "mail"),
        ({"company": ""}, "company"),
        ({"company": "ENT1"}, "company"),
        ({"company": None}, "company"),
        ({"role": "Chef"}, "role"),
        ({"role": ""}, "role"),
        ({"profile": "Gold"}, "profile"),
        ({"managerMail": "nobody@example.test"}, "managerMail"),
        ({"culture": "fra"}, "culture"),
        ({"culture": ""}, "culture"),
        ({"currencyIsoCode": "EURO"}, "currencyIsoCode"),
        ({"currencyIsoCode": "E1R"}, "currencyIsoCode"),
        ({"gotProPayment": "true"}, "gotProPayment"),
        ({"employeeNumber": 42}, "employeeNumber"),
    ],
)
def test_fields_that_are_refused(
    n2f: N2f, n2f_emulator: Emulator, fields: dict[str, object], named: str
) -> None:
    """A field that cannot be gets a 400 that names it, and nothing changes."""
    answer = n2f("POST", "users", {**WHOLE, **fields})
    assert (answer.status, answer.json) == (400, {"error": f"Invalid field: {named}"})
    assert n2f_emulator.effects() == []


def test_a_new_user_needs_mail_and_company(n2f: N2f) -> None:
    """Without `mail`, and for a new user without `company`, nothing is created."""
    for missing in ("mail", "company"):
        body = {key: value for key, value in WHOLE.items() if key != missing}
        assert n2f("POST", "users", body).json == {"error": f"Invalid field: {missing}"}


@pytest.mark.parametrize("body", [b'{"mail": NaN}', b'{"x": -Infinity}', b"[]", b"", b"\xff"])
def test_bodies_that_are_refused(n2f: N2f, body: bytes) -> None:
    """NaN and Infinity are no JSON; a body is an object."""
    answer = n2f("POST", "users", body)
    assert answer.status == 400
    assert answer.json["error"].startswith("Invalid body")


def test_unknown_fields(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A key that the service does not know is ignored, or refused by switch."""
    assert n2f.save(shoeSize="42").status == 201
    n2f_emulator.switches({"unknown_fields": "refused"})
    assert n2f.save(shoeSize="42").json == {"error": "Invalid field: shoeSize"}


def test_enums_have_their_own_case(n2f: N2f) -> None:
    """A known word is read in its own case, another as it came."""
    n2f.save(canCreateVehicle="ONLYCOMPANY", authMode="integrated")
    user = n2f.user("new@example.test")
    assert (user["canCreateVehicle"], user["authMode"]) == ("OnlyCompany", "Integrated")
    n2f.save(canCreateVehicle="Everyone", authMode="Saml")
    user = n2f.user("new@example.test")
    assert (user["canCreateVehicle"], user["authMode"]) == ("Everyone", "Saml")


def test_labels_in_any_language(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A role is taken in any language, and read in the one that the switch says."""
    n2f.save(role="utilisateur", profile="Standaard", culture="nl")
    found = {}
    for culture in ("written", "fr", "nl", "user", "en"):
        n2f_emulator.switches({"label_culture": culture})
        user = n2f.user("new@example.test")
        found[culture] = (user["role"], user["profile"])
    assert found == {
        "written": ("Utilisateur", "Standaard"),
        "fr": ("Utilisateur", "Standard"),
        "nl": ("Gebruiker", "Standaard"),
        "user": ("Gebruiker", "Standaard"),
        "en": ("Utilisateur", "Standaard"),
    }
    n2f_emulator.switches({"label_case": "strict"})
    assert n2f.save(role="utilisateur").status == 400


def test_empty_texts_come_in_three_styles(n2f: N2f, n2f_emulator: Emulator) -> None:
    """An empty text is read as written, as `""`, as null, or not at all; flags are not touched."""
    n2f.save(jobTitle="", managerMail=None)
    found = []
    for style in ("kept", "empty", "null", "absent"):
        n2f_emulator.switches({"null_style": style})
        user = n2f.user("new@example.test")
        found.append((user.get("jobTitle", "-"), user.get("managerMail", "-")))
        assert user["canRaiseLimits"] is False
    assert found == [("", None), ("", ""), (None, None), ("-", "-")]


def test_users_may_come_without_uuid(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Whether users are read with their id is a switch."""
    n2f_emulator.switches({"user_uuid": False})
    assert "uuid" not in n2f.data("users")[0]


def test_answers_to_writes_may_be_empty(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A POST that worked may answer nothing."""
    n2f_emulator.switches({"write_answer": "empty"})
    assert (n2f.save().status, n2f.save().body) == (201, b"")


def test_each_creation_sends_an_e_mail(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Creations through the API are counted; changes, refusals and seeds are not."""
    n2f_emulator.seed({"users": [{"mail": "seeded@example.test"}]})
    n2f.save("a@example.test")
    n2f.save("a@example.test", firstname="A")
    n2f.save("b@example.test", role="Chef")
    n2f("DELETE", "users/a@example.test")
    n2f.save("a@example.test")
    assert n2f_emulator.state()["creation_mails"] == {"total": 2, "to": ["a@example.test"] * 2}


def test_a_subscription_has_so_many_seats(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Beyond the limit nobody is created; who is there can be changed."""
    n2f_emulator.switches({"seat_limit": 5})
    assert n2f.save("a@example.test").status == 201
    refused = n2f.save("b@example.test")
    assert (refused.status, refused.json) == (409, {"error": "User limit reached"})
    assert n2f.save("a@example.test").status == 200


def test_a_manager_may_be_unknown_by_switch(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A manager must exist first, unless the switch takes any mail."""
    n2f_emulator.switches({"managers": "accepted"})
    assert n2f.save(managerMail="Later@example.test").status == 201
    assert n2f.user("new@example.test")["managerMail"] == "later@example.test"


@pytest.mark.parametrize(
    ("style", "status", "manager"),
    [("cleared", 204, ""), ("refused", 409, BOSS), ("dangling", 204, BOSS)],
)
def test_deleting_a_manager(
    n2f: N2f, n2f_emulator: Emulator, style: str, status: int, manager: str
) -> None:
    """Somebody's manager goes and is cleared, is refused, or stays named."""
    n2f_emulator.switches({"delete_manager": style})
    assert n2f("DELETE", f"users/{BOSS}").status == status
    assert n2f.user("user.two@example.test")["managerMail"] == manager


def test_deleting_a_user_in_use(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A mail among those in use is refused; a deleted user is gone."""
    n2f_emulator.switches({"in_use": ["user.two@example.test"]})
    refused = n2f("DELETE", "users/user.two%40example.test")
    assert (refused.status, refused.json) == (409, {"error": "Value in use"})
    assert n2f("DELETE", "users/user.three%40example.test").body == b""
    assert n2f("DELETE", "users/user.three%40example.test").status == 404


# ---- values ------------------------------------------------------------------------------------


def test_a_value_from_create_to_delete(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A value is created, changed in part, and deleted, in one axis of one company."""
    dates = {"validityDateFrom": "2030-01-01T00:00:00Z", "validityDateTo": None}
    made = n2f.put("V1", company=ENT2, axis=PLATES_2, names=NAMES, **dates)
    uuid = made.json["response"]["uuid"]
    assert made.status == 201
    wanted = {"uuid": uuid, "code": "V1", "names": NAMES, **dates}
    assert n2f.value("V1", ENT2, PLATES_2) == wanted
    changed = n2f.put("V1", company=ENT2, axis=PLATES_2, validityDateTo="2031-12-31T00:00:00Z")
    assert changed.status == 200
    assert n2f.value("V1", ENT2, PLATES_2)["names"] == NAMES
    n2f.put("V1", company=ENT2, axis=PLATES_2, validityDateTo=None)
    assert n2f.value("V1", ENT2, PLATES_2) == wanted
    assert n2f.drop("V1").status == 404
    assert n2f.drop("V1", company=ENT2, axis=PLATES_2).status == 204
    assert {(one["resource"], one["scope"]) for one in n2f_emulator.effects()} == {
        ("Plaque", "ENT2")
    }


def test_a_code_belongs_to_its_company_and_axis(n2f: N2f) -> None:
    """The same code in another company, or on another axis, is another value."""
    for company, axis in ((ENT1, PLATES_1), (ENT2, PLATES_2), (ENT1, SUBPOSTS_1)):
        assert n2f.put("SAME", company=company, axis=axis, names=NAMES).status == 201
    assert n2f.put("same", names=NAMES).status == n2f.put("SAME", names=NAMES).status == 201


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"code": ""}, "code"),
        ({"code": None}, "code"),
        ({"code": 100}, "code"),
        ({"names": None}, "names"),
        ({"names": []}, "names"),
        ({"names": "Chantier"}, "names"),
        ({"names": [{"culture": "fr"}]}, "names"),
        ({"names": [{"culture": "fre", "value": "x"}]}, "names"),
        ({"names": NAMES + NAMES[:1]}, "names"),
        ({"validityDateFrom": ""}, "validityDateFrom"),
        ({"validityDateFrom": "01/02/2030"}, "validityDateFrom"),
        ({"validityDateTo": "2030-02-30T00:00:00Z"}, "validityDateTo"),
        ({"validityDateTo": 20300101}, "validityDateTo"),
    ],
)
def test_values_that_are_refused(n2f: N2f, fields: dict[str, object], named: str) -> None:
    """A value's field that cannot be gets a 400 that names it."""
    body = {"code": "V1", "names": NAMES, **fields}
    answer = n2f("POST", f"companies/{ENT1}/axes/projects", body)
    assert (answer.status, answer.json) == (400, {"error": f"Invalid field: {named}"})


def test_a_new_value_needs_names(n2f: N2f) -> None:
    """Without names a value is not created."""
    assert n2f.put("V1").json == {"error": "Invalid field: names"}


def test_names_come_in_any_order(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Names are read as written, turned round, shuffled, or with one more language."""
    n2f.put("V1", names=NAMES)
    found = {}
    for order in ("written", "reversed", "shuffled", "extra"):
        n2f_emulator.switches({"names_order": order})
        found[order] = [name["culture"] for name in n2f.value("V1")["names"]]
    assert found["written"] == ["fr", "nl"]
    assert found["reversed"] == ["nl", "fr"]
    assert sorted(found["shuffled"]) == ["fr", "nl"]
    assert found["extra"] == ["nl", "fr", "en"]


def test_dates_come_in_three_styles(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Dates are read with a `Z`, without, or as days; null stays null, or is absent."""
    n2f.put("V1", names=NAMES, validityDateFrom="2030-01-01", validityDateTo=None)
    found = []
    for style in ("z", "no_z", "date"):
        n2f_emulator.switches({"date_style": style})
        found.append(n2f.value("V1")["validityDateFrom"])
    assert found == ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00", "2030-01-01"]
    n2f_emulator.switches({"null_style": "absent"})
    assert "validityDateTo" not in n2f.value("V1")


@pytest.mark.parametrize(
    ("switch", "text"),
    [
        ("in_use", "Value in use"),
        ("linked", "Value is linked"),
        ("is_default", "Value is a default"),
    ],
)
def test_values_that_stay(n2f: N2f, n2f_emulator: Emulator, switch: str, text: str) -> None:
    """A value in use, linked or somebody's default is not deleted: by code, place or seed."""
    n2f.put("V1", names=NAMES)
    n2f.put("V1", company=ENT2, names=NAMES)
    n2f_emulator.switches({switch: [{"company": "ENT1", "axis": "projects", "code": "V1"}]})
    refused = n2f.drop("V1")
    assert (refused.status, refused.json) == (409, {"error": text})
    assert n2f.drop("V1", company=ENT2).status == 204
    n2f_emulator.switches({switch: ["P0100"]})
    assert [n2f.drop("P0100", company=one).status for one in (ENT1, ENT2)] == [409, 409]
    n2f_emulator.switches({switch: None})
    n2f_emulator.seed({"values": [{"company": "ENT1", "code": "P0100", switch: True}]})
    assert n2f.drop("P0100").json == {"error": text}
    assert n2f.value("P0100")["names"][0]["value"] == "Depot refit"


# ---- seeds -------------------------------------------------------------------------------------


def test_the_reference_scenario(n2f: N2f, n2f_emulator: Emulator) -> None:
    """The seed `reference` has what N2F holds in the reference scenario."""
    n2f_emulator.switches({"seed": "reference"})
    same = n2f.user("same.user@example.org")
    assert (same["role"], same["managerMail"]) == ("Gebruiker", None)
    assert [user["mail"].partition(".")[0] for user in n2f.data("users")] == ["same", "chg", "gone"]
    codes = [value["code"] for value in n2f.data(f"companies/{ENT1}/axes/projects")]
    assert codes == ["P0100", "P0200", "P0300"]
    assert n2f.data(f"companies/{ENT2}/axes/projects") == []
    assert [name["culture"] for name in n2f.value("P0100")["names"]] == ["nl", "fr", "en"]
    assert n2f.value("P0300")["validityDateTo"] is None
    assert n2f.drop("OLD", axis=SUBPOSTS_1).json == {"error": "Value in use"}


def test_generated_seeds(n2f: N2f, n2f_emulator: Emulator) -> None:
    """So many users and values as told, each user's manager among them."""
    counts = {"users": 30, "projects": 60, "plates": 12, "subposts": 8, "departments": 4}
    n2f_emulator.switches({"seed": "empty", **counts})
    users = n2f.data("users")
    assert (len(users), len(n2f_emulator.state()["values"])) == (30, 84)  # type: ignore[arg-type]
    assert {user["managerMail"] for user in users[1:]} <= {user["mail"] for user in users}
    assert len(n2f.data(f"companies/{ENT2}/axes/MjAwMTM=")) == 2
    assert n2f.value("2-AAA-001", ENT1, PLATES_1)["names"][0]["value"] == "Vehicle 1"


def test_nothing_at_all(n2f: N2f, n2f_emulator: Emulator) -> None:
    """The seed `nothing` has no company; what is needed is put by hand."""
    n2f_emulator.switches({"seed": "nothing"})
    assert n2f.data("companies") == n2f("GET", "roles").json["response"] == []
    n2f_emulator.seed(
        {
            "companies": [{"code": "NEW"}],
            "axes": [{"company": "NEW", "names": "Plaque"}],
            "roles": [{"names": "Rôle"}],
            "users": [{"mail": "A@example.test", "company": "NEW"}],
            "values": [{"company": "NEW", "axis": "Plaque", "code": "V1", "names": "Van"}],
        }
    )
    company = n2f.data("companies")[0]["uuid"]
    axis = n2f.data(f"companies/{company}/axes")[0]["uuid"]
    assert n2f.value("V1", company, axis)["names"][1] == {"culture": "nl", "value": "Van"}
    assert n2f.user("a@example.test")["company"] == company


def test_a_state_is_a_seed(n2f: N2f, n2f_emulator: Emulator) -> None:
    """What `state` shows can be put into another emulator."""
    n2f("POST", "users", {**WHOLE, **HIDDEN})
    state = n2f_emulator.state()
    n2f_emulator.switches({"seed": "nothing"})
    n2f_emulator.seed(state)
    assert {**n2f_emulator.state(), "creation_mails": 0} == {**state, "creation_mails": 0}


def test_seeds_put_change_and_remove(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A seed changes what is there, removes what it lists, and replaces everything when told."""
    n2f_emulator.seed({"users": [{"mail": BOSS, "firstname": "Max"}]})
    assert (n2f.user(BOSS)["firstname"], n2f.user(BOSS)["lastname"]) == ("Max", "One")
    gone = {
        "users": [BOSS],
        "values": [{"company": "ENT1", "code": "P0100"}],
        "axes": [{"company": "ENT2", "axis": "Plaque"}],
    }
    n2f_emulator.seed({"remove": gone})
    assert len(n2f.data("users")) == 3
    assert [one["code"] for one in n2f.data(f"companies/{ENT1}/axes/projects")] == ["P0200"]
    assert n2f("GET", f"companies/{ENT2}/axes/{PLATES_2}").status == 404
    left = n2f_emulator.seed({"replace": True, "users": [{"mail": "only@example.test"}]})
    assert left == {"users": 1, "values": 0}
    n2f_emulator.seed({"remove": {"companies": ["ENT2"]}})
    assert len(n2f.data("companies")) == 1
    n2f_emulator.reset()
    assert len(n2f.data("users")) == 4


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        ([1], "a seed is an object"),
        ({"user": []}, "a seed takes no user"),
        ({"users": {}}, "`users` is a list"),
        ({"users": [{}]}, "a user has a `mail`"),
        ({"users": [{"mail": "a@example.test", "company": "ENT9"}]}, "no company 'ENT9'"),
        ({"values": [{"company": "ENT1", "axis": "Client", "code": "1"}]}, "has no axis 'Client'"),
        ({"values": [{"company": "ENT1"}]}, "a value has a `code`"),
        ({"remove": ["a"]}, "`remove` is an object"),
    ],
)
def test_seeds_that_cannot_be(n2f_emulator: Emulator, seed: object, said: str) -> None:
    """A seed that cannot be put says why."""
    with pytest.raises(ControlError, match=said):
        n2f_emulator.seed(seed)
