"""The N2F emulator: how one gets in, pages, quotas by the time of day, one call after another."""

from __future__ import annotations

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from emulator_client import Client
from n2f_client import BASE, BOSS, ENT1, ENT2, NAMES, PLATES_1, PLATES_2, N2f

from dsync import emulators
from dsync.emulators import Emulator

pytestmark = pytest.mark.integration


# ---- tokens ------------------------------------------------------------------------------------


def test_a_token_is_a_text_and_the_moment_of_its_end(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A login answers a token and, with seven digits, when it ends: an hour from now."""
    n2f_emulator.switches({"clock_speed": 0, "clock_start": "2031-05-04T09:15:30Z"})
    found = n2f.log_in().json["response"]
    assert found["token"].startswith("eyJ")
    assert re.fullmatch(r"2031-05-04T10:15:30\.\d{7}Z", found["validity"])
    assert n2f("GET", "roles").status == 200


@pytest.mark.parametrize(("digits", "form"), [(3, r"\.\d{3}Z"), (0, r":\d\dZ")])
def test_the_moment_has_as_many_digits_as_told(
    n2f: N2f, n2f_emulator: Emulator, digits: int, form: str
) -> None:
    """`validity` may have a shorter fraction, or none."""
    n2f_emulator.switches({"validity_digits": digits})
    validity = n2f.log_in().json["response"]["validity"]
    assert re.search(form + "$", validity)
    assert datetime.fromisoformat(validity)


def test_bad_credentials(n2f: N2f) -> None:
    """A wrong secret gets 401 without a `response`; so does a body that lacks one."""
    for body in ({"client_secret": "other"}, {"client_id": None}):
        answer = n2f.log_in(**body)
        assert (answer.status, answer.json) == (401, {"error": "Invalid credentials"})
    assert n2f.client("POST", f"{BASE}/auth", b"{").status == 400
    assert n2f.client("GET", f"{BASE}/auth").status == 405


def test_a_token_ends_on_the_emulators_clock(n2f: N2f, n2f_emulator: Emulator) -> None:
    """After an hour a token is as good as none; a new one works."""
    n2f.log_in()
    n2f_emulator.advance(3590)
    assert n2f("GET", "roles").status == 200
    n2f_emulator.advance(11)
    answer = n2f("GET", "roles")
    assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})
    n2f.log_in()
    assert n2f("GET", "roles").status == 200


def test_unknown_and_revoked_tokens(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Without a known token every call is a 401, and writes have no effect."""
    for token in ("", "other"):
        n2f.token = token
        assert n2f.save().status == 401
        assert n2f("GET", "nowhere").status == 401
    n2f.token = "demo"
    n2f_emulator.seed({"revoke_tokens": True})
    assert n2f("GET", "roles").status == 401
    assert n2f_emulator.effects() == []


def test_the_ledger_hides_secrets(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Neither the secret nor the token stands in the ledger."""
    n2f.log_in()
    n2f("GET", "roles")
    text = str(n2f_emulator.ledger())
    assert "demo-secret" not in text
    assert n2f.token not in text


# ---- paths -------------------------------------------------------------------------------------


def test_slashes_collapse_unless_strict(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Two slashes in a row are one, by default; strictly they are another path."""
    assert n2f("GET", "/users").status == 200
    assert n2f_emulator.ledger()[-1]["path"] == f"{BASE}//users"
    n2f_emulator.switches({"strict_slashes": True})
    assert n2f("GET", "/users").status == 404
    assert n2f("GET", "users").status == 200


def test_a_path_is_split_before_it_is_decoded(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A code may hold slashes, blanks, `#`, `?`, `+` and letters of any kind."""
    for code in ("A/B 1", "a#b?c", "1+1", "é%2F", "=="):
        assert n2f.put(code, names=NAMES).status == 201
        assert n2f.drop(code).status == 204
    kinds = [(effect["kind"], effect["key"]) for effect in n2f_emulator.effects()]
    assert kinds[:2] == [("create", "A/B 1"), ("delete", "A/B 1")]
    assert len(kinds) == 10


def test_ids_may_be_encoded_or_not(n2f: N2f) -> None:
    """The `=` at the end of an id may come as it is or as `%3D`."""
    for company, axis in ((ENT1, PLATES_1), ("MTAwMDE%3D", "MjAwMDE%3D")):
        assert n2f("GET", f"companies/{company}/axes/{axis}").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "customaxes", 404),
        ("GET", "projects", 404),
        ("GET", f"companies/{ENT1}", 404),
        ("GET", "companies/nobody/axes", 404),
        ("GET", f"companies/{ENT1}/axes/vehicles", 404),
        ("GET", f"companies/{ENT1}/axes/{PLATES_2}", 404),
        ("DELETE", f"companies/{ENT1}/axes/P0100/P0100", 404),
        ("DELETE", "users/nobody@example.test", 404),
        ("GET", f"users/{BOSS}", 405),
        ("PUT", "users", 405),
        ("POST", "roles", 405),
        ("DELETE", f"companies/{ENT1}/axes/projects", 405),
    ],
)
def test_what_is_not_there(n2f: N2f, method: str, path: str, status: int) -> None:
    """Unknown paths, companies, axes and keys are 404s; known paths know their methods."""
    answer = n2f(method, path)
    assert answer.status == status
    assert list(answer.json) == ["error"]


def test_another_base_path_is_not_there(n2f: N2f) -> None:
    """Nothing answers beside the base path."""
    headers = {"Authorization": "Bearer demo"}
    assert n2f.client("GET", "/services/api/v1/users", headers=headers).status == 404


# ---- envelopes and pages -----------------------------------------------------------------------


def test_companies_and_their_axes(n2f: N2f) -> None:
    """Each company has axes of its own ids; the built-in one is not among them."""
    assert n2f("GET", "companies").json["response"]["data"][0] == {
        "uuid": ENT1,
        "code": "ENT1",
        "name": "Entity One",
        "address": "1 Example Street, 1000 Sampletown",
    }
    first, second = (n2f.data(f"companies/{company}/axes") for company in (ENT1, ENT2))
    assert [axis["names"] for axis in first] == [axis["names"] for axis in second]
    assert [axis["uuid"] for axis in first] == ["MjAwMDE=", "MjAwMDI=", "MjAwMDM="]
    assert [axis["uuid"] for axis in second] == ["MjAwMTE=", "MjAwMTI=", "MjAwMTM="]
    assert first[0]["names"][0] == {"culture": "fr", "value": "Plaque"}
    assert len(n2f.data(f"companies/{ENT1}/axes?start=1&limit=1")) == 1


def test_roles_and_profiles_are_bare_lists(n2f: N2f) -> None:
    """Their `response` is the list, whatever page is asked for."""
    roles = n2f("GET", "roles?start=2&limit=1").json["response"]
    assert [role["names"][0]["value"] for role in roles] == [
        "Utilisateur",
        "Manager",
        "Comptable",
        "Administrateur",
    ]
    assert roles[0]["names"][1] == {"culture": "nl", "value": "Gebruiker"}
    profiles = n2f("GET", "userprofiles").json["response"]
    assert profiles[0]["names"][0] == {"culture": "fr", "value": "Standard"}


@pytest.mark.parametrize(
    ("style", "wanted"), [("absent", {}), ("list", {"data": []}), ("null", {"data": None})]
)
def test_nothing_to_list(
    n2f: N2f, n2f_emulator: Emulator, style: str, wanted: dict[str, object]
) -> None:
    """Where there is nothing, `data` is absent, empty or null, as told."""
    n2f_emulator.switches({"seed": "empty", "empty_data": style})
    assert n2f("GET", "users").json == {"response": wanted}


@pytest.mark.parametrize("total", [0, 199, 200, 201, 400])
def test_pages_of_two_hundred(n2f: N2f, n2f_emulator: Emulator, total: int) -> None:
    """All are found once, in order of creation, in pages of 200 at most, whatever is asked."""
    n2f_emulator.switches({"seed": "empty", "projects": 2 * total})
    found: list[str] = []
    while page := n2f.data(f"companies/{ENT1}/axes/projects?start={len(found)}&limit=500"):
        assert len(page) <= 200
        found += [value["code"] for value in page]
    assert found == [f"P{number:06}" for number in range(1, 2 * total + 1, 2)]


@pytest.mark.parametrize("query", ["start=-1", "limit=0", "limit=all", "start=1.5"])
def test_pages_that_cannot_be(n2f: N2f, query: str) -> None:
    """A page that cannot be is a 400."""
    assert n2f("GET", f"users?{query}").status == 400


def test_pages_that_lie(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Pages may repeat the first one, or hold less than asked though more is there."""
    whole = n2f.data("users?limit=3")
    n2f_emulator.switches({"paging": "repeats"})
    assert n2f.data("users?start=3&limit=3") == whole
    n2f_emulator.switches({"paging": "short"})
    assert n2f.data("users?start=0&limit=3") == whole[:2]
    n2f_emulator.switches({"paging": "normal", "twins": [BOSS]})
    assert [user["mail"] for user in n2f.data("users?limit=2")] == [BOSS, BOSS]


def test_unknown_keys_everywhere(n2f: N2f, n2f_emulator: Emulator) -> None:
    """All things may be read with keys that nobody knows."""
    n2f_emulator.switches({"extra_fields": True})
    paths = ("companies", "users", f"companies/{ENT1}/axes", f"companies/{ENT1}/axes/projects")
    assert all("id" in n2f.data(path)[0] for path in paths)
    assert "id" in n2f("GET", "roles").json["response"][0]


def test_ten_thousand_users_are_there_at_once(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A generated seed of 10,000 users is listed in 50 pages."""
    n2f_emulator.switches({"seed": "empty", "users": 10_000})
    mails = [
        user["mail"]
        for start in range(0, 10_000, 200)
        for user in n2f.data(f"users?start={start}&limit=200")
    ]
    assert len(set(mails)) == 10_000
    assert mails[-1] == "user.10000@example.test"
    assert n2f.user("user.00200@example.test")["managerMail"] == "user.00020@example.test"


# ---- one call after the other ------------------------------------------------------------------


def test_calls_beside_another_are_seen_and_refused(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Calls at once are always recorded; by switch all but the first get 409."""
    for refuse, wanted in ((False, {200}), (True, {200, 409})):
        n2f_emulator.switches({"latency_s": 0.1, "refuse_concurrent": refuse})
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda path: n2f("GET", path), ["roles", "users", "roles"]))
        assert {answer.status for answer in answers} == wanted
    assert {"error": "Concurrent call"} in [answer.json for answer in answers]
    assert n2f_emulator.counts()["in_flight_max"] == 3
    n2f_emulator.switches({"latency_s": 0})
    assert all(n2f("GET", "roles").status == 200 for _ in range(10))


# ---- quotas ------------------------------------------------------------------------------------

DAY, NIGHT = "2031-05-05T10:00:00+02:00", "2031-05-05T21:00:00+02:00"


def limited(emulator: Emulator, moment: str, **more: object) -> None:
    switches = {"clock_speed": 0, "clock_start": moment, "enforce_quota": None, **more}
    emulator.switches({**switches, "token_life_s": 864_000})
    emulator.switches({"tokens": ["demo"]})


@pytest.mark.parametrize(("moment", "reads", "writes"), [(DAY, 60, 10), (NIGHT, 200, 50)])
def test_quotas_by_the_time_of_day(
    n2f: N2f, n2f_emulator: Emulator, moment: str, reads: int, writes: int
) -> None:
    """By day and by night so many reads and writes fit into any minute; the next gets 429."""
    limited(n2f_emulator, moment)
    assert {n2f.put("P1", names=NAMES).status for _ in range(writes)} == {201, 200}
    refused = n2f.put("P1", names=NAMES)
    assert (refused.status, refused.json) == (429, {"error": "Too many requests"})
    assert refused.headers["retry-after"] == "60"
    with contextlib.closing(n2f.client.connect()) as connection:
        headers = {"Authorization": "Bearer demo"}
        found = [
            n2f.client("GET", f"{BASE}/roles", headers=headers, over=connection).status
            for _ in range(reads + 1)
        ]
    assert found == [200] * reads + [429]
    n2f_emulator.advance(59.5)
    assert n2f.put("P1", names=NAMES).headers["retry-after"] == "1"
    n2f_emulator.advance(0.5)
    assert n2f.put("P1", names=NAMES).status == 200


def test_a_login_counts_as_a_write(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A login takes the room of a write, though it asks for no change; by switch, of a read."""
    limited(n2f_emulator, DAY)
    assert [n2f.log_in().status for _ in range(11)] == [200] * 10 + [429]
    assert n2f.save().status == 429
    assert [call["kind"] for call in n2f_emulator.ledger()] == ["write"] * 12
    assert [call["write"] for call in n2f_emulator.ledger()][:10] == [False] * 10
    n2f_emulator.reset()
    limited(n2f_emulator, DAY, auth_class="read")
    assert [n2f.log_in().status for _ in range(11)] == [200] * 11


def test_the_change_of_quotas_gives_no_second_allowance(n2f: N2f, n2f_emulator: Emulator) -> None:
    """At 06:00 the calls of the last minute of the night count against the day."""
    limited(n2f_emulator, "2031-05-05T05:59:30+02:00")
    assert {n2f.put("P1", names=NAMES).status for _ in range(12)} == {201, 200}
    n2f_emulator.advance(30)
    assert n2f.put("P1", names=NAMES).status == 429
    n2f_emulator.until("20:00")
    n2f_emulator.advance(-1)
    assert [n2f.put("P1", names=NAMES).status for _ in range(11)] == [200] * 10 + [429]
    n2f_emulator.advance(1)
    assert [n2f.put("P1", names=NAMES).status for _ in range(41)] == [200] * 40 + [429]


def test_quotas_can_be_counted_only_or_taken_away(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Without enforcement the calls over the quota pass and are told; `{}` is no quota."""
    limited(n2f_emulator, DAY, enforce_quota="off")
    assert {n2f.save(BOSS).status for _ in range(12)} == {200}
    assert n2f_emulator.counts()["over_quota_by"] == {"fixed": 2, "sliding": 2}
    n2f_emulator.switches({"quota": {}, "enforce_quota": "sliding"})
    assert n2f.save(BOSS).status == 200


def test_hours_of_writes_in_virtual_time(n2f: N2f, n2f_emulator: Emulator) -> None:
    """A client that sleeps by `advance` writes 200 values in 20 minutes of the emulator's day."""
    limited(n2f_emulator, DAY)
    number = 0
    while number < 200:
        answer = n2f.put(f"P{number}", names=NAMES)
        if answer.status == 429:
            n2f_emulator.advance(float(answer.headers["retry-after"]))
        else:
            number += 1
    passed = n2f_emulator.clock()["now"]
    assert str(passed).startswith("2031-05-05T08:19:00.000")
    minutes: dict[str, dict[str, int]] = n2f_emulator.counts()["per_minute"]  # type: ignore[assignment]
    assert {minute["write"] for minute in minutes.values()} == {11, 10}


def test_the_quota_holds_by_default() -> None:
    """An emulator that was told nothing refuses the eleventh write of a day's minute."""
    switches = {"clock_start": DAY, "clock_speed": 0}
    with emulators.start("n2f", switches=switches) as emulator:
        client = Client(emulator.port)
        body = {"client_id": "demo-client", "client_secret": "demo-secret"}
        found = [client("POST", f"{BASE}/auth", body).status for _ in range(11)]
    assert found == [200] * 10 + [429]


# ---- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "there"), [("before", False), ("after", True)])
def test_a_cut_connection_before_or_after_the_effect(
    n2f: N2f, n2f_emulator: Emulator, when: str, there: bool
) -> None:
    """A reset comes before or after the write was stored, as the rule says."""
    rule = {"match": {"method": "POST", "path": "/users"}, "fault": "reset", "when": when}
    n2f_emulator.faults([rule])
    with pytest.raises(OSError, match=r"reset|closed"):
        n2f.save("cut@example.test")
    users = n2f_emulator.state()["users"]
    assert any(user["mail"] == "cut@example.test" for user in users) is there  # type: ignore[attr-defined]


def test_a_page_that_fails(n2f: N2f, n2f_emulator: Emulator) -> None:
    """Any call may be answered with any status, so often as told."""
    n2f_emulator.switches({"users": 300})
    rule = {"match": {"path": "start=200", "times": 1}, "fault": "status", "status": 502}
    n2f_emulator.faults([rule])
    assert n2f("GET", "users?start=0&limit=200").status == 200
    assert n2f("GET", "users?start=200&limit=200").status == 502
    assert n2f("GET", "users?start=200&limit=200").status == 200
