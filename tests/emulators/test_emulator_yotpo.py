"""The Yotpo emulator: tokens, cursors, limits, and customers by the million."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote

import pytest
from emulator_client import Answer, Client

from dsync import emulators
from dsync.emulators import Emulator
from dsync.emulators.yotpo_people import People, View

pytestmark = pytest.mark.integration

STORE = "/core/v3/stores/demo-store"
CUSTOMERS = f"{STORE}/customers"
EVERYTHING = "include_custom_properties=true&expand=loyalty"


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with emulators.start("yotpo") as emulator:
        yield emulator


@pytest.fixture
def yotpo(running: Emulator) -> Emulator:
    running.switches(dict.fromkeys(running.switches()))
    running.switches({"store_rate_per_s": 0, "tokens": ["t1"]})
    running.reset()
    return running


@pytest.fixture
def client(yotpo: Emulator) -> Client:
    return Client(yotpo.port, {"X-Yotpo-Token": "t1"})


def pages(client: Client, query: str = "limit=100", path: str = CUSTOMERS) -> Iterator[Any]:
    """The pages of a listing; the cursor is spliced in as it came."""
    over, answer = client.connect(), {}
    try:
        target = f"{path}?{query}"
        while True:
            answer = client("GET", target, over=over).json
            yield answer
            cursor = (answer.get("pagination") or {}).get("next_page_info")
            if not cursor:
                return
            target = f"{path}?page_info={cursor}"
    finally:
        over.close()


def listed(client: Client, query: str = "limit=100") -> list[dict[str, Any]]:
    return [one for page in pages(client, query) for one in page["customers"]]


# ---- tokens ------------------------------------------------------------------------------------


def test_a_token_for_the_secret(yotpo: Emulator) -> None:
    """The secret buys a token, in the new way and the old; a wrong one, or another store, none."""
    anyone = Client(yotpo.port)
    token = anyone("POST", f"{STORE}/access_tokens", {"secret": "demo-secret"}).json
    assert list(token) == ["access_token"]
    form = b"client_id=demo-store&client_secret=demo-secret&grant_type=client_credentials"
    older = anyone("POST", "/oauth/token", form).json
    assert older["token_type"] == "bearer"
    for issued in (token, older):
        seen = anyone("GET", CUSTOMERS, headers={"X-Yotpo-Token": issued["access_token"]})
        assert seen.status == 200
    assert anyone("POST", f"{STORE}/access_tokens", {"secret": "no"}).status == 401
    elsewhere = "/core/v3/stores/other/access_tokens"
    assert anyone("POST", elsewhere, {"secret": "demo-secret"}).status == 404
    assert anyone("POST", f"{STORE}/access_tokens", b"{").status == 400
    assert yotpo.writes() == 0


@pytest.mark.parametrize("how", ["life", "calls", "fault", "403"])
def test_a_token_dies(yotpo: Emulator, client: Client, how: str) -> None:
    """A token ends after its life, after so many calls, or when told; the answer is 401 or 403."""
    assert client("GET", CUSTOMERS).status == 200
    if how == "life":
        yotpo.advance(14 * 86_400 + 1)
    elif how == "fault":
        yotpo.faults([{"fault": "token_dies"}])
    else:
        yotpo.switches({"token_calls": 1, "unauthorized_status": "403" if how == "403" else "401"})
    refused = client("GET", CUSTOMERS)
    assert (refused.status, refused.json) == (
        403 if how == "403" else 401,
        {"errors": [{"message": "Unauthorized"}]},
    )


def test_secrets_do_not_show_in_the_ledger(yotpo: Emulator, client: Client) -> None:
    """Neither the secret nor a token can be read in the ledger."""
    client("POST", f"{STORE}/access_tokens", {"secret": "demo-secret"})
    client("GET", f"{CUSTOMERS}?access_token=t1")
    text = json.dumps(yotpo.ledger())
    assert "demo-secret" not in text
    assert '"t1"' not in text


# ---- pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_all_customers_by_cursor(yotpo: Emulator, client: Client, count: int) -> None:
    """A listing has every customer once, however the last page falls."""
    yotpo.switches({"customers": count})
    found = [one["external_id"] or one["email"] for one in listed(client)]
    assert len(found) == len(set(found)) == count


def test_a_page_has_a_hundred_at_most(client: Client) -> None:
    """Without `limit` a page has 100; more, less than one, or no number is a 400."""
    assert len(client("GET", CUSTOMERS).json["customers"]) == 100
    for limit in ("101", "0", "ten", "-1"):
        assert client("GET", f"{CUSTOMERS}?limit={limit}").status == 400


def test_a_cursor_comes_encoded_once(yotpo: Emulator, client: Client) -> None:
    """A cursor is good as it came, or decoded and encoded once; encoded twice it is a 400."""
    cursor = client("GET", f"{CUSTOMERS}?limit=7").json["pagination"]["next_page_info"]
    plain = unquote(cursor)
    assert cursor == quote(plain, safe="")
    assert set("+/=") <= set(plain)
    second = client("GET", f"{CUSTOMERS}?page_info={cursor}").json
    again = client("GET", f"{CUSTOMERS}?page_info={quote(plain, safe='')}").json
    assert second == again
    assert len(second["customers"]) == 7
    for bad in (quote(cursor, safe=""), plain, "x", plain[:-4]):
        refused = client("GET", f"{CUSTOMERS}?page_info={bad}")
        assert refused.status == 400
        assert refused.json == {"errors": [{"message": "invalid page_info"}]}
    assert yotpo.ledger()[1]["query"] == {"page_info": plain}
    assert client("GET", f"{STORE}/orders?page_info={cursor}").status == 400


def test_the_cursor_remembers_what_was_asked(client: Client) -> None:
    """Expansions of the first call hold for all pages; nothing is shown that was not asked for."""
    bare = client("GET", f"{CUSTOMERS}?limit=10").json["customers"]
    assert all("loyalty" not in one and "custom_properties" not in one for one in bare)
    for page in pages(client, f"limit=100&{EVERYTHING},reviews"):
        assert all(
            {"loyalty", "custom_properties", "yotpo_ugc"} <= set(one) for one in page["customers"]
        )


def test_what_may_stand_beside_a_cursor(yotpo: Emulator, client: Client) -> None:
    """Filters beside a cursor are a 400; expansions are too where the emulator is strict."""
    cursor = client("GET", f"{CUSTOMERS}?limit=7").json["pagination"]["next_page_info"]
    target = f"{CUSTOMERS}?page_info={cursor}"
    assert client("GET", f"{target}&email=a@example.test").status == 400
    assert client("GET", f"{target}&{EVERYTHING}").status == 200
    yotpo.switches({"cursor_strict": True})
    assert client("GET", f"{target}&{EVERYTHING}").status == 400
    assert len(client("GET", f"{target}&limit=3").json["customers"]) == 3


@pytest.mark.parametrize(
    ("how", "pagination"),
    [
        ("null", {"pagination": {"next_page_info": None}}),
        ("absent", {"pagination": {}}),
        ("empty", {"pagination": {"next_page_info": ""}}),
        ("no_pagination", {}),
        ("null_pagination", {"pagination": None}),
    ],
)
def test_how_the_last_page_ends(
    yotpo: Emulator, client: Client, how: str, pagination: dict[str, Any]
) -> None:
    """The last page says in five ways that there is no other."""
    yotpo.switches({"last_next": how, "customers": 3})
    page = client("GET", CUSTOMERS).json
    page.pop("customers")
    assert page == pagination


def test_no_customers(yotpo: Emulator, client: Client) -> None:
    """No customers are an empty page, or a 400 that says so; also behind the last page."""
    yotpo.switches({"customers": 0})
    assert listed(client) == []
    yotpo.switches({"no_results": "400"})
    refused = client("GET", CUSTOMERS)
    assert (refused.status, refused.json) == (400, {"errors": [{"message": "No results found"}]})
    yotpo.switches({"customers": 100, "extra_page": True})
    cursor = client("GET", CUSTOMERS).json["pagination"]["next_page_info"]
    assert client("GET", f"{CUSTOMERS}?page_info={cursor}").status == 400


# ---- lies --------------------------------------------------------------------------------------


def test_a_cursor_that_loops(yotpo: Emulator, client: Client) -> None:
    """Page 3 names itself as the next, for ever."""
    yotpo.switches({"lie": "loop_cursor", "lie_page": 3, "customers": 1000})
    walk = pages(client)
    seen = [next(walk)["customers"][0]["external_id"] for _ in range(6)]
    assert seen == ["cust-1", "cust-101", *["cust-201"] * 4]


@pytest.mark.parametrize(
    ("lie", "sizes"),
    [
        ("repeat_page", [100, 100, 100, 50]),
        ("empty_page", [100, 0, 100, 50]),
        ("short_page", [100, 50, 100]),
    ],
)
def test_pages_that_lose_nothing(
    yotpo: Emulator, client: Client, lie: str, sizes: list[int]
) -> None:
    """A page that comes twice, comes empty first, or is short leaves the listing whole."""
    yotpo.switches({"lie": lie})
    walked = [page["customers"] for page in pages(client)]
    assert [len(page) for page in walked] == sizes
    assert len({one["external_id"] or one["email"] for page in walked for one in page}) == 250


def test_pages_that_are_no_pages(yotpo: Emulator, client: Client) -> None:
    """A page may be cut off, HTML, or JSON of another shape; so often as told, then it is good."""
    shapes: dict[str, Callable[[Answer], bool]] = {
        "null_body": lambda answer: answer.json is None,
        "list_body": lambda answer: answer.json == [],
        "no_customers": lambda answer: answer.json == {},
        "null_customers": lambda answer: answer.json["customers"] is None,
        "object_customers": lambda answer: isinstance(answer.json["customers"], dict),
        "html": lambda answer: answer.headers["content-type"].startswith("text/html"),
        "truncated": lambda answer: not answer.body.endswith(b"}"),
    }
    for lie, shown in shapes.items():
        yotpo.switches({"lie": lie, "lie_page": 1, "lie_times": 1})
        answer = client("GET", CUSTOMERS)
        assert answer.status == 200
        assert shown(answer), lie
        assert len(client("GET", CUSTOMERS).json["customers"]) == 100


# ---- limits ------------------------------------------------------------------------------------


def test_five_calls_a_second(yotpo: Emulator, client: Client) -> None:
    """The sixth call within a second is a 429; every answer says what is left."""
    yotpo.switches({"store_rate_per_s": None})
    left = [client("GET", f"{CUSTOMERS}?limit=1").headers["ratelimit-remaining"] for _ in range(5)]
    assert left == ["4", "3", "2", "1", "0"]
    refused = client("POST", f"{STORE}/access_tokens", {"secret": "demo-secret"})
    assert (refused.status, refused.headers["ratelimit-reset"]) == (429, "1")
    assert "retry-after" not in refused.headers
    yotpo.advance(1)
    assert client("GET", CUSTOMERS).status == 200


def test_three_spellings_of_retry_after(yotpo: Emulator, client: Client) -> None:
    """`Retry-After` comes as seconds, as a decimal, or as a date; none is too early."""
    yotpo.switches({"store_rate_per_s": 1})
    client("GET", CUSTOMERS)
    said = {}
    for form in ("seconds", "decimal", "date"):
        yotpo.switches({"retry_after": form})
        said[form] = client("GET", CUSTOMERS).headers["retry-after"]
    assert said["seconds"] == "1"
    assert 0 < float(said["decimal"]) <= 1
    assert "." in said["decimal"]
    until = email.utils.parsedate_to_datetime(said["date"]).timestamp()
    assert time.time() <= until <= time.time() + 3


def test_faults_of_the_api(yotpo: Emulator, client: Client) -> None:
    """One call can be told that its cursor is bad, or that there is nothing."""
    yotpo.faults(
        [
            {"fault": "bad_cursor", "match": {"nth": 1}},
            {"fault": "no_results", "match": {"nth": 2}},
        ]
    )
    texts = [client("GET", CUSTOMERS).json["errors"][0]["message"] for _ in range(2)]
    assert texts == ["invalid page_info", "No results found"]
    assert client("GET", CUSTOMERS).status == 200


# ---- customers ---------------------------------------------------------------------------------


def test_customers_are_as_long_as_told(yotpo: Emulator, client: Client) -> None:
    """A full record has about 1.5 kB, or as many bytes as the switch says; one may have 5 MB."""
    for size in (1500, 4000):
        yotpo.switches({"record_bytes": size})
        body = client("GET", f"{CUSTOMERS}?{EVERYTHING}").body
        assert 0.95 * size < len(body) / 100 < 1.1 * size
    yotpo.switches({"big_records": [2], "customers": 3})
    records = client("GET", f"{CUSTOMERS}?{EVERYTHING}").json["customers"]
    assert [len(json.dumps(one)) > 5_000_000 for one in records] == [False, True, False]


def test_odd_customers(yotpo: Emulator, client: Client) -> None:
    """Emoji, half characters, texts that look like numbers, and people without any identity."""
    yotpo.switches({"surrogate_every": 5, "without_identity_every": 9})
    raw = client("GET", f"{CUSTOMERS}?{EVERYTHING}").body
    assert "🎁".encode() in raw
    assert b"\\ud83d" in raw
    assert "\u2028".encode() in raw
    records = dict(enumerate(json.loads(raw)["customers"], 1))
    assert records[5]["first_name"] == "Ana \ud83d"
    assert records[11]["custom_properties"]["member_no"] == "00042"
    assert {records[9][name] for name in ("external_id", "email", "phone_number")} == {None}
    assert records[10]["external_id"] is None
    assert records[4]["loyalty"] is None
    assert records[50 + 1]["loyalty"]["points_balance"] >= 0


def test_counts_of_identities(yotpo: Emulator, client: Client) -> None:
    """The state tells how many records a listing has, and how many people are among them."""
    yotpo.switches({"duplicate_every": 8, "without_identity_every": 30, "customers": 1000})
    records = listed(client)
    keys = [one["external_id"] or (one["email"] or "").lower() or None for one in records]
    state = yotpo.state()
    assert state["customers"] == len(records) == 1000
    assert state["without_identity"] == keys.count(None) == 33
    assert state["identities"] == len({key for key in keys if key})
    assert state["repeated"] == 1000 - 33 - len({key for key in keys if key})
    assert list(People(duplicate_every=8, without_identity_every=30).identities(1000)) == keys


def test_the_same_customers_every_time(yotpo: Emulator, client: Client) -> None:
    """Customers follow from their number and the seed; a version changes the points of a tenth."""
    view = View(loyalty=True, properties=True)
    page = client("GET", f"{CUSTOMERS}?{EVERYTHING}").body
    assert [json.loads(People().record(n, view)) for n in range(1, 101)] == json.loads(page)[
        "customers"
    ]
    before = listed(client, EVERYTHING)
    yotpo.switches({"version": 5, "changed_every": 13})
    after = listed(client, EVERYTHING)
    changed = [n for n, (old, new) in enumerate(zip(before, after, strict=True), 1) if old != new]
    assert changed
    assert all(n % 13 == 0 for n in changed)
    yotpo.switches({"random_seed": 2})
    assert client("GET", f"{CUSTOMERS}?{EVERYTHING}").body != page


def test_filters(client: Client) -> None:
    """Customers can be asked for by external ids, by e-mail, and by phone number."""
    some = client("GET", f"{CUSTOMERS}?external_ids=cust-3,cust-7,cust-999999,x").json["customers"]
    assert [one["external_id"] for one in some] == ["cust-3", "cust-7"]
    for name in ("email", "phone_number"):
        value = quote(some[1][name], safe="")
        found = client("GET", f"{CUSTOMERS}?{name}={value}").json["customers"]
        assert [one["external_id"] for one in found] == ["cust-7"]
    assert client("GET", f"{CUSTOMERS}?email=nobody@example.test").json["customers"] == []


def test_customers_can_be_changed_and_seeded(yotpo: Emulator, client: Client) -> None:
    """PATCH and seeds create and change customers; a seed also removes some, or all."""
    for email_ in ("new@example.test", "newer@example.test"):
        given = {"external_id": "mine-1", "email": email_}
        assert client("PATCH", CUSTOMERS, {"customer": given}).status == 200
    client("PATCH", CUSTOMERS, {"customer": {"external_id": "cust-3", "tags": "new"}})
    assert client("PATCH", CUSTOMERS, {"customer": {"tags": "x"}}).status == 400
    assert [effect["kind"] for effect in yotpo.effects()] == ["create", "update", "update"]
    yotpo.seed({"remove": ["cust-5"]})
    found = {one["external_id"]: one for one in listed(client)}
    assert found["mine-1"]["email"] == "newer@example.test"
    assert found["cust-3"]["tags"] == "new"
    assert "cust-5" not in found
    yotpo.seed({"replace": True, "customers": [{"email": "only@example.test"}]})
    assert listed(client) == [{"email": "only@example.test"}]


def test_orders_and_products(client: Client) -> None:
    """Orders and products are listed alike; orders from a day on, told on the first call only."""
    for what, count in (("orders", 120), ("products", 60)):
        walk = pages(client, "limit=50", f"{STORE}/{what}")
        assert len({one["yotpo_id"] for page in walk for one in page[what]}) == count
    late = f"{STORE}/orders?limit=10&order_date_min=2025-06-01"
    page = client("GET", late).json
    assert all(one["order_date"] >= "2025-06-01" for one in page["orders"])
    cursor = page["pagination"]["next_page_info"]
    assert client("GET", f"{late}&page_info={cursor}").status == 400
    assert client("GET", f"{STORE}/campaigns").status == 404


def test_many_customers_cost_no_memory(yotpo: Emulator, client: Client) -> None:
    """The last of a million customers is as quickly found as the first."""
    yotpo.switches({"customers": 1_000_000})
    began = time.monotonic()
    walked = [len(page["customers"]) for page, _ in zip(pages(client), range(30), strict=False)]
    assert walked == [100] * 30
    assert client("GET", f"{CUSTOMERS}?external_ids=cust-999999").json["customers"]
    assert time.monotonic() - began < 10
