"""The plain emulator: ordinary REST and the switches that change its manners."""

from __future__ import annotations

import base64
import re
import time
from typing import Any

import pytest
from emulator_client import Client

from dsync.emulators import ControlError, Emulator

pytestmark = pytest.mark.integration


def seed(plain: Emulator, count: int, collection: str = "things") -> None:
    objects = [{"name": f"n{number}", "parity": number % 2} for number in range(1, count + 1)]
    plain.seed({"collection": collection, "objects": objects})


def held(plain: Emulator, path: str = "things") -> list[dict[str, Any]]:
    return plain.state()["collections"].get(path, [])  # type: ignore[attr-defined,no-any-return]


# ---- create, read, update, delete --------------------------------------------------------------


def test_one_object_from_create_to_delete(plain: Emulator, client: Client) -> None:
    """An object is created, read, replaced, patched and deleted; then it is gone."""
    made = client("POST", "/api/things", {"name": "one", "size": 1, "tags": {"a": 1, "b": 2}})
    assert (made.status, made.headers["location"]) == (201, "/api/things/1")
    assert made.json == {"id": 1, "name": "one", "size": 1, "tags": {"a": 1, "b": 2}}
    patched = client("PATCH", "/api/things/1", {"size": 2, "tags": {"a": None, "c": 3}})
    assert patched.json == {"id": 1, "name": "one", "size": 2, "tags": {"b": 2, "c": 3}}
    replaced = client("PUT", "/api/things/1", {"name": "uno"})
    assert replaced.json == client("GET", "/api/things/1").json == {"id": 1, "name": "uno"}
    assert client("DELETE", "/api/things/1").status == 204
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = client(method, "/api/things/1", {} if method in ("PUT", "PATCH") else None)
        assert answer.status == 404
    assert client("POST", "/api/things", {"name": "uno"}).json["id"] == 2


def test_ids_may_be_texts_under_another_name(plain: Emulator, client: Client) -> None:
    """Ids are texts, and named otherwise, by switch; a client cannot choose them."""
    plain.switches({"id_kind": "text", "id_field": "uid"})
    made = client("POST", "/api/things", {"name": "one", "uid": "mine"})
    assert made.json == {"uid": "r-00000001", "name": "one"}
    assert client("GET", made.headers["location"]).json["name"] == "one"


def test_the_natural_key_is_unique_unless_told(plain: Emulator, client: Client) -> None:
    """A second object with a key gets 409, by POST, PUT or PATCH; by switch there may be twins."""
    seed(plain, 2)
    assert client("POST", "/api/things", {"name": "n1"}).status == 409
    assert client("PUT", "/api/things/2", {"name": "n1"}).status == 409
    assert client("PATCH", "/api/things/2", {"name": "n1"}).status == 409
    assert client("PATCH", "/api/things/2", {"name": "n2"}).status == 200
    plain.switches({"unique": False})
    assert client("POST", "/api/things", {"name": "n1"}).status == 201
    assert [thing["name"] for thing in held(plain)] == ["n1", "n2", "n1"]


def test_upserts_by_key_and_by_post(plain: Emulator, client: Client) -> None:
    """PUT by key creates, then replaces; POST does so by switch."""
    first = client("PUT", "/api/things/by-key/a%2Fb", {"size": 1})
    assert (first.status, first.json) == (201, {"id": 1, "size": 1, "name": "a/b"})
    assert client("PUT", "/api/things/by-key/a%2Fb", {"size": 2}).status == 200
    assert client("GET", "/api/things/by-key/a%2Fb").json["size"] == 2
    plain.switches({"post_upsert": True})
    again = client("POST", "/api/things", {"name": "a/b", "size": 3})
    assert (again.status, again.json["id"]) == (200, 1)
    assert [effect["kind"] for effect in plain.effects()] == ["create", "update", "update"]
    assert client("DELETE", "/api/things/by-key/a%2Fb").status == 204
    assert client("GET", "/api/things/by-key/a%2Fb").status == 404


def test_required_fields(plain: Emulator, client: Client) -> None:
    """A write without a required field gets 422 as problem+json that names the field."""
    plain.switches({"things.required": ["name", "size"]})
    answer = client("POST", "/api/things", {"name": "one"})
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json["errors"] == [{"field": "size", "message": "is required"}]
    assert client("POST", "/api/others", {}).status == 201
    assert client("POST", "/api/things", b"{nope").status == 400
    assert client("POST", "/api/things", [1]).status == 422


def test_collections_below_an_object(plain: Emulator, client: Client) -> None:
    """A nested collection lives under an object that exists, apart from all others."""
    seed(plain, 2)
    made = client("POST", "/api/things/1/parts", {"name": "bolt"})
    assert made.headers["location"] == "/api/things/1/parts/1"
    assert client("GET", "/api/things/1/parts/1").json == {"id": 1, "name": "bolt"}
    assert client("GET", "/api/things/2/parts").json["data"] == []
    assert client("GET", "/api/things/3/parts").status == 404
    assert client("PUT", "/api/things/1/parts/by-key/nut", {}).status == 201
    assert {effect["scope"] for effect in plain.effects()} == {"things/1"}
    assert plain.ledger()[-1]["template"] == "/api/things/{id}/parts/by-key/{key}"


def test_only_the_collections_that_there_are(plain: Emulator, client: Client) -> None:
    """With a list of collections, any other is a 404."""
    plain.switches({"collections": ["things"]})
    assert client("GET", "/api/things").status == 200
    assert client("GET", "/api/thing").status == 404
    assert client("GET", "/elsewhere").status == 404
    assert client("PUT", "/api/things").status == 405


def test_extra_fields_come_and_go(plain: Emulator, client: Client) -> None:
    """Unknown keys show in what is read, also of objects that were there before."""
    seed(plain, 1)
    plain.switches({"extra_fields": True})
    assert client("GET", "/api/things/1").json["_kind"] == "things"
    assert "_links" in client("GET", "/api/things").json["data"][0]
    plain.switches({"extra_fields": False})
    assert client("GET", "/api/things/1").json == {"id": 1, "name": "n1", "parity": 1}


@pytest.mark.parametrize(("kind", "body"), [("id", b'{"id":1}'), ("empty", b"")])
def test_a_create_that_answers_little(
    plain: Emulator, client: Client, kind: str, body: bytes
) -> None:
    """A create may answer its id only, or nothing but the place."""
    plain.switches({"create_answer": kind})
    answer = client("POST", "/api/things", {"name": "one"})
    assert (answer.status, answer.body, answer.headers["location"]) == (201, body, "/api/things/1")


def test_seeds_put_replace_and_remove(plain: Emulator, client: Client) -> None:
    """A seed changes the collection behind the client's back, without effects in the ledger."""
    seed(plain, 3)
    plain.seed({"collection": "things", "objects": [{"name": "n2", "x": 1}], "remove": ["n1", 3]})
    assert held(plain) == [{"id": 2, "name": "n2", "x": 1}]
    plain.seed([{"collection": "things", "objects": [{"id": 9, "name": "q"}], "replace": True}])
    assert client("GET", "/api/things").json["data"] == [{"id": 9, "name": "q"}]
    assert client("POST", "/api/things", {"name": "r"}).json["id"] == 10
    assert len(plain.effects()) == 1


# ---- lists -------------------------------------------------------------------------------------


def walk(client: Client, paging: str, path: str = "/api/things", size: int = 4) -> list[Any]:
    """Follows a listing the way its paging asks, to its end."""
    found: list[Any] = []
    joint = "&" if "?" in path else "?"
    target = f"{path}{joint}limit={size}"
    for page in range(1, 30):
        if paging == "offset":
            target = f"{path}{joint}limit={size}&offset={len(found)}"
        if paging == "page":
            target = f"{path}{joint}limit={size}&page={page}"
        answer = client("GET", target)
        assert answer.status == 200
        records = answer.json["data"] if isinstance(answer.json, dict) else answer.json
        found += records
        if paging in ("offset", "page") and len(records) < size:
            return found
        if paging == "cursor":
            if not answer.json["next"]:
                return found
            target = f"{path}{joint}limit={size}&cursor={answer.json['next']}"
        if paging == "link":
            link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("link", ""))
            following = link[1] if link else answer.json.get("next")
            if not following:
                return found
            target = following
    return found


@pytest.mark.parametrize("paging", ["offset", "page", "cursor", "link"])
@pytest.mark.parametrize("count", [0, 1, 4, 8, 11])
def test_every_paging_gives_every_record_once(
    plain: Emulator, client: Client, paging: str, count: int
) -> None:
    """Whatever the paging, its pages joined are the collection, in order."""
    plain.switches({"paging": paging})
    seed(plain, count)
    assert walk(client, paging) == held(plain)


def test_links_may_come_in_a_header_with_a_bare_list(plain: Emulator, client: Client) -> None:
    """A `Link` header carries the next page of a bare list."""
    plain.switches({"paging": "link", "next_in": "header", "records_key": "", "total": "header"})
    seed(plain, 6)
    first = client("GET", "/api/things?limit=4&parity=1")
    assert first.headers["x-total-count"] == "3"
    first = client("GET", "/api/things?limit=4")
    assert [one["name"] for one in first.json] == ["n1", "n2", "n3", "n4"]
    link = re.fullmatch(r'<(/api/things\?limit=4&cursor=.+)>; rel="next"', first.headers["link"])
    assert link
    second = client("GET", link[1])
    assert [one["name"] for one in second.json] == ["n5", "n6"]
    assert "link" not in second.headers


def test_the_envelope_is_told_by_switches(plain: Emulator, client: Client) -> None:
    """Records, total and next are where the switches put them."""
    plain.switches(
        {
            "paging": "cursor",
            "records_key": "response.data",
            "total_key": "response.count",
            "next_key": "meta.cursor",
            "last_next": "absent",
            "item_key": "response.item",
        }
    )
    seed(plain, 3)
    first = client("GET", "/api/things?limit=2").json
    assert (len(first["response"]["data"]), first["response"]["count"]) == (2, 3)
    last = client("GET", f"/api/things?limit=2&cursor={first['meta']['cursor']}").json
    assert last == {"response": {"data": [{"id": 3, "name": "n3", "parity": 1}], "count": 3}}
    assert client("GET", "/api/things/3").json["response"]["item"]["name"] == "n3"


def test_an_absolute_link_leads_back(plain: Emulator, client: Client) -> None:
    """The absolute form of a link has the origin that was asked."""
    plain.switches({"paging": "link", "link_form": "absolute"})
    seed(plain, 3)
    following = client("GET", "/api/things?limit=2").json["next"]
    assert following.startswith(f"http://127.0.0.1:{plain.port}/api/things?")


def test_page_sizes_have_bounds(plain: Emulator, client: Client) -> None:
    """Without a size the default holds, above the maximum the maximum, and nonsense is a 400."""
    plain.switches({"paging": "offset", "page_size": 2, "max_page_size": 3})
    seed(plain, 5)
    assert len(client("GET", "/api/things").json["data"]) == 2
    assert len(client("GET", "/api/things?limit=99").json["data"]) == 3
    assert client("GET", "/api/things?offset=9").json == {"data": [], "total": 5}
    for query in ("limit=0", "limit=x", "offset=-1"):
        assert client("GET", f"/api/things?{query}").status == 400
    plain.switches({"paging": "page"})
    assert client("GET", "/api/things?page=0").status == 400
    plain.switches({"paging": "page", "first_page": 0})
    assert client("GET", "/api/things?page=0").json["data"][0]["name"] == "n1"
    plain.switches({"paging": "cursor"})
    assert client("GET", "/api/things?cursor=zzz").status == 400


def test_a_cursor_stays_true_while_records_go(plain: Emulator, client: Client) -> None:
    """Deleting records that were listed shifts offsets, never cursors."""
    plain.switches({"paging": "cursor"})
    seed(plain, 6)
    cursor = client("GET", "/api/things?limit=3").json["next"]
    for number in (1, 2, 3):
        client("DELETE", f"/api/things/{number}")
    rest = client("GET", f"/api/things?limit=9&cursor={cursor}").json
    assert [one["name"] for one in rest["data"]] == ["n4", "n5", "n6"]
    plain.switches({"paging": "offset"})
    assert client("GET", "/api/things?limit=9&offset=3").json["data"] == []


def test_filters_hold_or_are_ignored(plain: Emulator, client: Client) -> None:
    """An unknown query parameter filters by equality; by switch the server ignores it."""
    seed(plain, 5)
    assert [one["id"] for one in client("GET", "/api/things?parity=1").json["data"]] == [1, 3, 5]
    assert [one["id"] for one in client("GET", "/api/things?name=n4").json["data"]] == [4]
    assert client("GET", "/api/things?name=n4&parity=1").json["data"] == []
    assert client("GET", "/api/things?id=2").json["total"] == 1
    plain.switches({"filters": False})
    assert client("GET", "/api/things?name=n4").json["total"] == 5


@pytest.mark.parametrize(("lie", "total"), [("total_high", 10), ("total_low", 8)])
def test_a_total_that_lies(plain: Emulator, client: Client, lie: str, total: int) -> None:
    """The total is one more, or one less, than there is."""
    plain.switches({"paging": "offset", "lie": lie})
    seed(plain, 9)
    assert client("GET", "/api/things?limit=4").json["total"] == total


def test_pages_that_lie(plain: Emulator, client: Client) -> None:
    """The second page repeats the first, or is empty, or the cursors never end."""
    plain.switches({"paging": "offset"})
    seed(plain, 10)
    plain.switches({"lie": "repeat_page"})
    assert [one["id"] for one in walk(client, "offset")] == [1, 2, 3, 4, 1, 2, 3, 4, 9, 10]
    plain.switches({"lie": "empty_page"})
    assert [one["id"] for one in walk(client, "offset")] == [1, 2, 3, 4]
    plain.switches({"paging": "cursor", "lie": "loop_cursor"})
    assert len(walk(client, "cursor")) > 50


def test_a_listing_of_many_records_is_not_quadratic(plain: Emulator, client: Client) -> None:
    """The last page of a long listing costs no more than the first."""
    plain.switches({"paging": "offset"})
    seed(plain, 20_000)
    connection = client.connect()
    client("GET", "/api/things?limit=200", over=connection)

    def cost(offset: int) -> float:
        best = 9.0
        for _ in range(15):
            start = time.perf_counter()
            client("GET", f"/api/things?limit=200&offset={offset}", over=connection)
            best = min(best, time.perf_counter() - start)
        return best

    first, last = cost(0), cost(19_800)
    connection.close()
    assert last < 5 * first + 0.005


# ---- access ------------------------------------------------------------------------------------


def basic(user: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


@pytest.mark.parametrize(
    ("auth", "right", "wrong"),
    [
        ("basic", basic("demo", "demo-secret"), basic("demo", "nope")),
        ("bearer", {"Authorization": "Bearer demo"}, {"Authorization": "Bearer nope"}),
        ("header", {"X-Api-Key": "demo"}, {"X-Api-Key": "nope"}),
    ],
)
def test_calls_must_show_who_they_are(
    plain: Emulator, client: Client, auth: str, right: dict[str, str], wrong: dict[str, str]
) -> None:
    """The right credentials get in; wrong ones and none get 401, without effect."""
    plain.switches({"auth": auth})
    assert client("POST", "/api/things", {"name": "one"}, headers=wrong).status == 401
    assert client("POST", "/api/things", {"name": "one"}).status == 401
    assert held(plain) == []
    assert client("POST", "/api/things", {"name": "one"}, headers=right).status == 201


def test_a_token_in_exchange(plain: Emulator, client: Client) -> None:
    """`POST /auth` gives a token with its life, for JSON and for a form; wrong secrets get 401."""
    plain.switches({"auth": "exchange", "token_key": "response.token", "token_life_s": 60})
    right = {"client_id": "demo", "client_secret": "demo-secret"}
    first = client("POST", "/auth", right).json
    assert first["expires_in"] == 60
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    second = client("POST", "/auth", b"client_id=demo&client_secret=demo-secret", headers=form).json
    assert first["response"]["token"] != second["response"]["token"]
    for one in (first, second):
        token = {"Authorization": f"Bearer {one['response']['token']}"}
        assert client("GET", "/api/things", headers=token).status == 200
    assert client("POST", "/auth", {**right, "client_secret": "nope"}).status == 401
    assert client("GET", "/api/things").status == 401


# ---- preconditions, idempotency, jobs, consistency ---------------------------------------------


def test_etags_guard_against_the_lost_update(plain: Emulator, client: Client) -> None:
    """A write whose If-Match is old gets 412; required, a write without one gets 428."""
    plain.switches({"etag": "on"})
    first = client("POST", "/api/things", {"name": "one"}).headers["etag"]
    assert client("GET", "/api/things/1", headers={"If-None-Match": first}).status == 304
    second = client("PUT", "/api/things/1", {"name": "uno"}, headers={"If-Match": first})
    assert second.status == 200
    for method in ("PUT", "DELETE"):
        stale = client(method, "/api/things/1", {"name": "x"}, headers={"If-Match": first})
        assert stale.status == 412
    assert client("PUT", "/api/things/1", {"name": "free"}).status == 200
    absent = {"If-None-Match": "*"}
    assert client("PUT", "/api/things/by-key/free", {}, headers=absent).status == 412
    assert client("PUT", "/api/things/by-key/new", {}, headers=absent).status == 201
    plain.switches({"etag": "required"})
    assert client("DELETE", "/api/things/1").status == 428
    assert client("DELETE", "/api/things/1", headers={"If-Match": "*"}).status == 204


def test_an_idempotency_key_is_answered_again(plain: Emulator, client: Client) -> None:
    """The same key gets the same answer and no second effect, as long as the key is known."""
    plain.switches({"idempotency": True, "idempotency_life_s": 60, "unique": False})
    key = {"Idempotency-Key": "k1"}
    first = client("POST", "/api/things", {"name": "one"}, headers=key)
    again = client("POST", "/api/things", {"name": "one"}, headers=key)
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert client("POST", "/api/things", {"name": "two"}, headers=key).status == 422
    assert len(plain.effects()) == 1
    plain.advance(61)
    assert client("POST", "/api/things", {"name": "one"}, headers=key).json["id"] == 2


def test_an_idempotency_key_is_ignored_unless_told(plain: Emulator, client: Client) -> None:
    """A server that knows no such header makes two objects."""
    plain.switches({"unique": False})
    for _ in range(2):
        client("POST", "/api/things", {"name": "one"}, headers={"Idempotency-Key": "k1"})
    assert len(held(plain)) == 2


def test_a_job_does_the_write_later(plain: Emulator, client: Client) -> None:
    """A write is accepted, pending for some polls, then done with the answer it would have had."""
    plain.switches({"jobs": True, "job_polls": 2})
    accepted = client("POST", "/api/things", {"name": "one"})
    where = accepted.headers["location"]
    assert (accepted.status, accepted.json["job"]) == (202, where)
    assert [client("GET", where).json["status"] for _ in range(2)] == ["pending", "pending"]
    assert held(plain) == []
    done = client("GET", where).json
    assert (done["status"], done["code"], done["result"]) == ("done", 201, {"id": 1, "name": "one"})
    twin = client("POST", "/api/things", {"name": "one"}).headers["location"]
    plain.advance(31)
    failed = client("GET", twin).json
    assert (failed["status"], failed["code"], failed["error"]["status"]) == ("failed", 409, 409)
    assert client("GET", "/jobs/nope").status == 404
    assert [effect["key"] for effect in plain.effects()] == ["one"]


@pytest.mark.parametrize(
    ("fault", "status", "there"),
    [
        ("job_fail", "failed", False),
        ("job_fail_with_effect", "failed", True),
        ("job_no_effect", "done", False),
        ("job_never", "pending", False),
        ("job_missing", None, True),
    ],
)
def test_jobs_that_lie(
    plain: Emulator, client: Client, fault: str, status: str | None, there: bool
) -> None:
    """A job's verdict and its effect may differ."""
    plain.switches({"jobs": True, "job_polls": 0})
    plain.faults([{"fault": fault}])
    where = client("POST", "/api/things", {"name": "one"}).headers["location"]
    answer = client("GET", where)
    plain.advance(100)
    assert client("GET", where).json.get("status") == (status or 404)
    assert answer.status == (404 if status is None else 200)
    assert bool(held(plain)) is there


def test_a_failure_inside_a_success(plain: Emulator, client: Client) -> None:
    """HTTP says 200 and the body says error; nothing has changed."""
    plain.faults([{"fault": "failed_inside", "message": "quota"}])
    answer = client("POST", "/api/things", {"name": "one"})
    assert (answer.status, answer.json) == (200, {"status": "error", "error": "quota"})
    assert held(plain) == []


def test_reads_may_lag_behind_writes(plain: Emulator, client: Client) -> None:
    """Lists and reads show a change only after the delay; the key is taken at once."""
    seed(plain, 1)
    plain.switches({"consistency_delay_s": 30})
    client("POST", "/api/things", {"name": "new"})
    client("PUT", "/api/things/1", {"name": "changed"})
    assert [one["name"] for one in client("GET", "/api/things").json["data"]] == ["n1"]
    assert client("GET", "/api/things/2").status == 404
    assert client("POST", "/api/things", {"name": "new"}).status == 409
    plain.advance(31)
    assert [one["name"] for one in client("GET", "/api/things").json["data"]] == ["changed", "new"]


def test_a_switch_for_one_collection(plain: Emulator, client: Client) -> None:
    """A switch with a collection's name holds for this collection only; null takes it back."""
    seed(plain, 3, "things")
    seed(plain, 3, "others")
    plain.switches({"others.paging": "offset", "others.page_size": 1})
    assert len(client("GET", "/api/things").json["data"]) == 3
    assert len(client("GET", "/api/others").json["data"]) == 1
    plain.switches({"others.paging": None})
    assert len(client("GET", "/api/others").json["data"]) == 3
    with pytest.raises(ControlError, match="no switch is named pages"):
        plain.switches({"others.pages": 1})
