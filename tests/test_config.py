"""Configuration: one precedence, every origin known, and no secret in any message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dsync import config
from dsync.config import Config
from dsync.errors import Faults, Invalid
from dsync.model import Scope

pytestmark = pytest.mark.unit

GOOD = """\
connections:
  director:
    base_url: https://director.example.test/
    credentials: {token: "${env:DIRECTOR_TOKEN}"}
    scopes: tenants.yml
    rate: 5/s
  shop:
    base_url: ${SHOP_URL}
    credentials: {username: me, password: "${file:pass.txt}"}
    scopes: [{name: one, values: {company: "1"}, role: x}]
    headers: {X-Trace: "on", X-Key: "k-${KEY}"}
context: {tenant: blue}
logging: {console_level: warning}
inputs: {xlsx_path: data/import.xlsx}
"""


def load(
    root: Path,
    text: str | None = GOOD,
    *,
    environ: Mapping[str, str] | None = None,
    machine: tuple[Path, ...] = (),
    **more: Any,
) -> Config:
    if text is not None:
        (root / "directorsync.yml").write_text(text, encoding="utf-8")
    return config.load(root, environ=environ or {}, machine_files=machine, **more)


def told(root: Path, text: str, **more: Any) -> Faults:
    with pytest.raises(Faults) as caught:
        load(root, text, **more)
    return caught.value


def test_a_configuration(tmp_path: Path) -> None:
    """Paths start at the file, words of levels have no case, URLs lose their last slash."""
    loaded = load(tmp_path)
    director = loaded.connection("director")
    assert director.url == "https://director.example.test"
    assert director.scopes == tmp_path / "tenants.yml"
    assert director.system == "director"
    assert director.rate == "5/s"
    assert loaded.settings.inputs.xlsx_path == tmp_path / "data/import.xlsx"
    assert loaded.settings.logging.console_level == "WARNING"
    assert loaded.settings.profiles.search_paths == [tmp_path / "profiles"]
    assert loaded.state_dir == tmp_path / ".dsync"
    assert loaded.context == {"tenant": "blue"}


def test_no_file_at_all(tmp_path: Path) -> None:
    """Without any file the defaults hold."""
    assert load(tmp_path, None).connections == ()


def test_secrets_are_looked_up_when_they_are_used(tmp_path: Path) -> None:
    """A configuration can be read, and each connection looked at, without any secret there."""
    loaded = load(tmp_path)
    director = loaded.connection("director")
    with pytest.raises(Invalid) as caught:
        director.credential("token")
    assert caught.value.code == "DS-CFG-ENV"
    assert "`DIRECTOR_TOKEN`" in caught.value.message
    assert str(caught.value.where).endswith("directorsync.yml:4:26")


def test_credentials_and_headers(tmp_path: Path) -> None:
    """Credentials come from the environment and from files; headers may refer to them too."""
    (tmp_path / "pass.txt").write_text("pa55word\n")
    (tmp_path / "pass.txt").chmod(0o600)
    loaded = load(tmp_path, environ={"SHOP_URL": "http://127.0.0.1:8701/api", "KEY": "42"})
    shop = loaded.connection("shop")
    assert shop.url == "http://127.0.0.1:8701/api"
    assert {name: s.reveal() for name, s in shop.secrets().items()} == {
        "username": "me",
        "password": "pa55word",
    }
    assert shop.header_values() == {"X-Trace": "on", "X-Key": "k-42"}
    assert shop.scopes == (Scope(name="one", values={"company": "1"}, role="x"),)
    with pytest.raises(Invalid) as caught:
        shop.credential("tokn")
    assert caught.value.code == "DS-CFG-CREDENTIAL"


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    """repr of a configuration and of a connection holds no secret, not even a plain one."""
    text = GOOD.replace('"${env:DIRECTOR_TOKEN}"', "plain-sesame")
    loaded = load(tmp_path, text, environ={"SHOP_URL": "https://x.example.test", "A": "sesame2"})
    shown = f"{loaded!r} {loaded.connection('director')!r} {loaded.connection('shop')!r}"
    assert "sesame" not in shown
    assert "pass.txt" not in shown


# --- precedence ----------------------------------------------------------------------------------


def test_precedence(tmp_path: Path) -> None:
    """Flag, environment, .env, project, user, machine, default: the first that speaks wins."""
    names = ("tenant", "a", "b", "c", "d", "e")
    machine, user, root = tmp_path / "etc.yml", tmp_path / "user.yml", tmp_path / "project"
    root.mkdir()

    def context(upto: int, value: str) -> str:
        return "context: {" + ", ".join(f"{n}: {value}" for n in names[:upto]) + "}\n"

    machine.write_text(context(6, "machine") + "app: {concurrency: 9}\n")
    user.write_text(context(5, "user"))
    (root / ".env").write_text("DSYNC_CONTEXT__TENANT=dotenv\nDSYNC_CONTEXT__A=dotenv\n"
                               "export DSYNC_CONTEXT__B='dotenv' \n# no\n\n")  # fmt: skip
    loaded = load(
        root,
        context(4, "project"),
        environ={"DSYNC_CONTEXT__TENANT": "process", "DSYNC_CONTEXT__A": "process"},
        machine=(user, machine),
        flags={"context.tenant": "flag", "app.dry_run": True, "app.run_id": None},
    )
    assert loaded.context == {
        "tenant": "flag",
        "a": "process",
        "b": "dotenv",
        "c": "project",
        "d": "user",
        "e": "machine",
    }
    assert loaded.settings.app.concurrency == 9
    assert loaded.settings.app.dry_run is True
    origins = loaded.origins
    assert origins["context.tenant"] == "flag --tenant"
    assert origins["context.a"] == "environment DSYNC_CONTEXT__A"
    assert origins["context.b"].endswith(".env DSYNC_CONTEXT__B")
    assert origins["context.c"].endswith("directorsync.yml:1:55")
    assert origins["context.e"].endswith("etc.yml:1:79")
    assert origins["logging.file_level"] == "default"


def test_a_file_given_is_the_only_file(tmp_path: Path) -> None:
    """`--config FILE`, or DSYNC_CONFIG, is read instead of all other files."""
    other = tmp_path / "other.yml"
    other.write_text("context: {x: y}\n")
    assert load(tmp_path, config_file=other).context == {"x": "y"}
    assert load(tmp_path, environ={"DSYNC_CONFIG": str(other)}).context == {"x": "y"}
    with pytest.raises(Faults) as caught:
        load(tmp_path, config_file=tmp_path / "missing.yml")
    assert caught.value.code == "DS-YAML-FILE"


def test_variables_nest_and_find_names_with_dashes(tmp_path: Path) -> None:
    """`__` nests; a connection with a dash is met by an underscore; lists are split."""
    text = "connections: {my-shop: {base_url: https://a.example.test}}\n"
    loaded = load(
        tmp_path,
        text,
        environ={
            "DSYNC_CONNECTIONS__MY_SHOP__RETRIES": "7",
            "DSYNC_CONNECTIONS__MY_SHOP__VERIFY_TLS": "no",
            "DSYNC_CONNECTIONS__MY_SHOP__CREDENTIALS__TOKEN": "a${b}",
            "DSYNC_PROFILES__SEARCH_PATHS": "/a:/b",
            "DSYNC_ENGINE__THREADS": "2",
            "DSYNC_ENGINE": "v3",
        },
    )
    shop = loaded.connection("my-shop")
    assert (shop.retries, shop.verify_tls) == (7, False)
    assert shop.credential("token").reveal() == "a${b}"
    assert loaded.settings.profiles.search_paths == [Path("/a"), Path("/b")]
    assert loaded.settings.engine.threads == 2


def test_the_older_section_is_a_connection(tmp_path: Path) -> None:
    """`director:` of the first language is the connection `director`, over all layers."""
    text = (
        "director: {base_url: https://a.example.test, token: t0ken-1234, timeout_sec: 5}\n"
        "app: {run_id: abc}\n"
    )
    loaded = load(tmp_path, text, environ={"DSYNC_DIRECTOR__BASE_URL": "https://b.example.test"})
    director = loaded.connection("director")
    assert director.url == "https://b.example.test"
    assert director.timeout_s == 5
    assert director.credential("token").reveal() == "t0ken-1234"


def test_older_variables_are_understood(tmp_path: Path) -> None:
    """The names of the second generation make the connection `director`, and are said anew."""
    loaded = load(
        tmp_path,
        None,
        environ={
            "LP_DIRECTOR_URL": "https://a.example.test",
            "LP_DIRECTOR_API_TOKEN": "t0ken-1234",
            "LP_TENANTS_FILE": str(tmp_path / "t.yml"),
            "LP_MONITOR_ENABLED": "0",
            "DSYNC_CONNECTIONS__DIRECTOR__SCOPES": str(tmp_path / "u.yml"),
        },
    )
    director = loaded.connection("director")
    assert director.url == "https://a.example.test"
    assert director.credential("token").reveal() == "t0ken-1234"
    assert director.scopes == tmp_path / "u.yml"
    assert "LP_DIRECTOR_URL is read as DSYNC_CONNECTIONS__DIRECTOR__BASE_URL" in loaded.notes
    assert any("LP_MONITOR_ENABLED is not read" in note for note in loaded.notes)


def test_env_file_above_the_project(tmp_path: Path) -> None:
    """`.env` is looked for upward, but not beyond a project's own file."""
    (tmp_path / ".env").write_text("DSYNC_CONTEXT__X=up\n")
    (tmp_path / "p").mkdir()
    assert load(tmp_path / "p", None).context == {"x": "up"}
    assert load(tmp_path / "p", "version: 1\n").context == {}


def test_flags_make_a_connection(tmp_path: Path) -> None:
    """`--base-url` and its kin override a connection, or make one that no file knows."""
    loaded = load(tmp_path)
    made = config.with_overrides(
        loaded,
        "adhoc",
        system="director",
        base_url="http://127.0.0.1:8701",
        token="d${e}mo",
        verify_tls=False,
        timeout_s=3,
        retries=0,
        rate="5/s",
    )
    adhoc = made.connection("adhoc")
    assert (adhoc.system, adhoc.url, adhoc.retries) == ("director", "http://127.0.0.1:8701", 0)
    assert adhoc.credential("token").reveal() == "d${e}mo"
    assert made.origins["connections.adhoc.timeout_s"] == "flag --timeout-sec"
    assert made.connection("director").rate == "5/s"
    over = config.with_overrides(loaded, "director", base_url="https://c.example.test")
    assert over.connection("director").url == "https://c.example.test"
    assert over.connection("director").scopes == tmp_path / "tenants.yml"
    assert config.with_overrides(loaded, "director") is loaded


# --- faults --------------------------------------------------------------------------------------


def test_all_faults_with_places_and_without_values(tmp_path: Path) -> None:
    """Wrong values are told together with their places, and never shown."""
    text = (
        GOOD.replace("rate: 5/s", "rate: sesame")
        .replace("tenant: blue", "tenant: 4711")
        .replace("warning", "sesame")
        .replace("${SHOP_URL}", "https://u:sesame@x")
    )
    faults = told(tmp_path, text).faults
    assert [(f.code, getattr(f.where, "line", 0)) for f in faults] == [
        ("DS-QUOTA", 6),
        ("DS-YAML-TYPE", 12),
        ("DS-CFG-SCHEMA", 13),
    ]
    assert "4711" not in str(told(tmp_path, text))


@pytest.mark.parametrize(
    "line",
    ["token: 0123456", "token: a: sesame", "token: !sesame x", "token: *sesame", "token: @s"],
)
def test_syntax_faults_do_not_quote_the_file(tmp_path: Path, line: str) -> None:
    """A fault in the line of a secret does not show the line."""
    shown = str(told(tmp_path, f"director:\n  {line}\n"))
    assert "sesame" not in shown
    assert "0123456" not in shown
    assert "directorsync.yml:2:" in shown


def test_unknown_keys(tmp_path: Path) -> None:
    """An unknown key is a warning with its place, and refused in strict mode."""
    text = GOOD.replace("rate:", "rat:") + "owner: us\n"
    loaded = load(tmp_path, text)
    assert [(w.code, getattr(w.where, "line", 0)) for w in loaded.warnings] == [
        ("DS-CFG-UNKNOWN", 6),
        ("DS-CFG-UNKNOWN", 15),
    ]
    assert "did you mean `rate`?" in str(loaded.warnings[0].hint)
    assert [f.code for f in told(tmp_path, text, strict=True).faults] == ["DS-CFG-UNKNOWN"] * 2


def test_an_unknown_variable_is_a_warning(tmp_path: Path) -> None:
    """A DSYNC_ variable that means nothing is told, with a suggestion."""
    (warning,) = load(tmp_path, None, environ={"DSYNC_CONTXT__X": "sesame"}).warnings
    assert "did you mean `context`?" in str(warning)
    assert "sesame" not in str(warning)


def test_a_missing_variable_in_a_plain_value(tmp_path: Path) -> None:
    """A variable that a value needs, and that is not set, is named with its place."""
    fault = told(tmp_path, "context: {tenant: '${TENANT}'}\n").faults[0]
    assert fault.code == "DS-CFG-ENV"
    assert "`TENANT`" in fault.message


def test_an_unknown_connection_names_the_known_ones(tmp_path: Path) -> None:
    """A connection that is not there comes back with a suggestion."""
    with pytest.raises(Invalid) as caught:
        load(tmp_path).connection("directr")
    assert caught.value.code == "DS-CFG-CONNECTION"
    assert "did you mean `director`?" in str(caught.value.hint)


def test_a_connection_without_a_url(tmp_path: Path) -> None:
    """A connection may have no URL until it is used."""
    bare = load(tmp_path, "connections: {x: {}}\n").connection("x")
    with pytest.raises(Invalid) as caught:
        _ = bare.url
    assert caught.value.code == "DS-URL"


def test_plain_secrets_in_a_readable_file_are_warned_of(tmp_path: Path) -> None:
    """A secret written in a file that others can read is a warning, unless the API is local."""
    text = "connections: {x: {base_url: URL, credentials: {token: t}}}\n"
    far = load(tmp_path, text.replace("URL", "https://a.example.test"))
    near = load(tmp_path, text.replace("URL", "http://127.0.0.1:1"))
    (tmp_path / "directorsync.yml").chmod(0o644)
    assert [w.code for w in far.connection("x").warnings] == ["DS-CFG-MODE"]
    assert near.connection("x").warnings == ()
    (tmp_path / "directorsync.yml").chmod(0o600)
    assert far.connection("x").warnings == ()


@pytest.mark.parametrize(
    "url",
    [
        "director.example.test",
        "ftp://a.example.test",
        "https://",
        "https:///path",
        " https://a.example.test",
        "https://a.example.test ",
        "https://me:sesame@a.example.test",
        "https://me@a.example.test",
        "https://a.example.test/x?token=sesame",
        "https://a.example.test/#x",
        "https://a.example.test:99999",
        "https://a.example.test:x",
        "https://a.example.test:0",
        "https://ex\u0430mple.test",
        "https://::1/",
        "https://[::zz]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://a..b/",
        "https://-a.example.test/",
        "https://a.example.test\\b",
        "https://a.example.test/a/../b",
        "https://a.example.test/%2e%2e/b",
        "https://a b/",
    ],
)
def test_bad_urls_are_refused_unquoted(url: str) -> None:
    """A base URL that could mean another host, or holds a secret, is refused and not shown."""
    with pytest.raises(Invalid) as caught:
        config.check_url(url, "x")
    assert caught.value.code == "DS-URL"
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://a.example.test/", "https://a.example.test"),
        ("https://a.example.test:8443/x/v2//", "https://a.example.test:8443/x/v2"),
        ("http://[::1]:8701", "http://[::1]:8701"),
        ("http://192.0.2.7/api", "http://192.0.2.7/api"),
        ("http://localhost:8701", "http://localhost:8701"),
    ],
)
def test_good_urls(url: str, kept: str) -> None:
    """Names, addresses, ports and paths are taken; the slash at the end goes."""
    assert config.check_url(url, "x") == kept


def test_clear_text_is_warned_of(tmp_path: Path) -> None:
    """http to another machine is a warning, to this one it is not."""
    text = "connections: {x: {base_url: http://a.example.test}, y: {base_url: http://127.0.0.1}}\n"
    loaded = load(tmp_path, text)
    assert [w.code for w in loaded.connection("x").warnings] == ["DS-URL"]
    assert loaded.connection("y").warnings == ()
