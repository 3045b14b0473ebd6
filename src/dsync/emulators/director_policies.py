"""Repos, and the policies for what comes in: routing, normalization, enrichment, processing.

Source: Director API 2.7.0 and observed traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .director_kinds import Fetch, Form, Ref, Resource, installation
from .director_nodes import REPO_PORT, Stored, View, objects, texts
from .shapes import Field, Flag, Int, ListOf, Object, Problem, Text

__all__ = ["POLICIES"]


# ---- repos: written as hiddenrepopath, read as repopath; no rename -----------------------------

_TIER = Object(
    (
        Field(name="path", shape=Text(), must=True),
        Field(name="retention", shape=Int(), must=True),
    )
)
_REMOTE = Object(
    (
        Field(name="ha_li", shape=Text(), must=True),
        Field(name="ha_day", shape=Int(), must=True),
    )
)
_TIERS = (
    Field(name="hiddenrepopath", shape=ListOf(_TIER), must=True),
    Field(name="repoha", shape=ListOf(_REMOTE)),
)
_NAME = Field(name="name", shape=Text(), must=True)


def _born_repo(view: View) -> Stored:
    numbers = [value.get("repo_number") for value in view.objects("Repos").values()]
    last = max((number for number in numbers if isinstance(number, int)), default=0)
    return {"active": True, "repo_number": last + 1, "tid": "", "used_size": "0 B"}


def _read_repo(_view: View, value: Stored, _listed: bool) -> Stored:
    shown = {key: item for key, item in value.items() if key != "hiddenrepopath"}
    return {**shown, "repopath": value.get("hiddenrepopath", [])}


def _remote_repos(view: View, _body: Stored) -> Iterator[Stored]:
    """This machine's repos first, then those of the others of its pool."""
    node = view.node
    others = sorted(node.pool_nodes, key=lambda other: (other is not node, other.address))
    for one in others:
        ip = "127.0.0.1" if one is node else one.address
        for repo in one.store("Repos").true.values():
            where = f"{ip}:{REPO_PORT}/{repo['name']}"
            yield {"repo": where, "name": repo["name"], "ip": ip, "port": REPO_PORT}


# ---- routing: names repos by name; rules are ordered -------------------------------------------

_ROUTING_RULE = Object(
    (
        Field(name="type", shape=Text(choices=("KeyPresent", "KeyPresentValueMatches")), must=True),
        Field(name="key", shape=Text(), must=True),
        Field(name="value", shape=Text()),
        Field(name="repo", shape=Text()),
        Field(name="drop", shape=Text()),
    )
)
_ROUTING = Form(
    shape=Object(
        (
            Field(name="policy_name", shape=Text(), must=True),
            Field(name="catch_all", shape=Text(), must=True),
            Field(name="routing_criteria", shape=ListOf(_ROUTING_RULE)),
            Field(name="active", shape=Flag(), cleared=False),
        )
    )
)


# ---- normalization: written as comma-separated texts, read as lists; no rename -----------------

_NORM = (
    Field(name="norm_packages", shape=Text(), wrong_type="norm_packages_list"),
    Field(name="compiled_normalizer", shape=Text()),
)


def _parts(value: object) -> list[str]:
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return texts(value)


def _read_norm(view: View, value: Stored, listed: bool) -> Stored:
    packages = _parts(value.get("norm_packages"))
    shown = {key: value[key] for key in ("id", "name", "active", "tid")}
    shown["normalization_packages"] = packages
    shown["ordered_signatures"] = []
    shown["selected_signatures"] = [f"sig_{one[-6:]}" for one in packages]
    compiled = _parts(value.get("compiled_normalizer"))
    form = view.switches.text("compiled_normalizer")
    if form == "list" or (form == "get_only" and not listed):
        shown["compiled_normalizer"] = compiled
    elif form == "csv":
        shown["compiled_normalizer"] = ",".join(compiled)
    return shown


_PACKAGE_NAME = Text(
    form=r"(?=.{2,100}$)[A-Za-z0-9][A-Za-z0-9_-]*[A-Za-z0-9]",
    rule="2 to 100 letters, digits, - and _, with a letter or digit at either end",
)


def _named_compiled(_view: View, values: list[Stored]) -> object:
    return [{key: item for key, item in value.items() if key != "id"} for value in values]


# ---- enrichment: other words for its criteria than routing has ---------------------------------


def _criterion(value: Stored) -> Iterator[Problem]:
    if value.get("type") == "KeyPresentsValueMatches" and "value" not in value:
        yield Problem("missing_key", "Missing parameter: criteria.value")


def _rule(value: Stored) -> Iterator[Problem]:
    needed = {"simple": ["event_key"], "type_based": ["type", "prefix"]}
    for key in needed.get(str(value.get("category")), []):
        if key not in value:
            yield Problem("missing_key", f"Missing parameter: rules.{key}")


def _specification(value: Stored) -> Iterator[Problem]:
    if not value.get("rules"):
        yield Problem("no_rules", f"No rules for enrichment source {value.get('source')}")


_CRITERION = Object(
    (
        Field(
            name="type", shape=Text(choices=("KeyPresents", "KeyPresentsValueMatches")), must=True
        ),
        Field(name="key", shape=Text(), must=True),
        Field(name="value", shape=Text()),
    ),
    _criterion,
)
_ENRICHMENT_RULE = Object(
    (
        Field(name="category", shape=Text(choices=("simple", "type_based")), must=True),
        Field(name="operation", shape=Text(choices=("Equals",)), must=True),
        Field(name="source_key", shape=Text(), must=True),
        Field(name="event_key", shape=Text()),
        Field(name="type", shape=Text(choices=("ip", "string", "num"))),
        Field(name="prefix", shape=Flag()),
    ),
    _rule,
)
_SPECIFICATION = Object(
    (
        Field(name="source", shape=Text(), must=True),
        Field(name="criteria", shape=ListOf(_CRITERION), must=True),
        Field(name="rules", shape=ListOf(_ENRICHMENT_RULE)),
    ),
    _specification,
)
_ENRICHMENT = Form(
    shape=Object(
        (
            _NAME,
            Field(name="description", shape=Text()),
            Field(name="specifications", shape=ListOf(_SPECIFICATION), must=True),
        )
    )
)


def _read_enrichment(view: View, value: Stored, listed: bool) -> Stored:
    if listed or not view.switches.flag("get_omits_rule_type"):
        return dict(value)
    specifications = []
    for specification in objects(value.get("specifications")):
        rules = [
            {key: item for key, item in rule.items() if key != "type"}
            if rule.get("category") == "simple"
            else rule
            for rule in objects(specification.get("rules"))
        ]
        specifications.append({**specification, "rules": rules})
    return {**value, "specifications": specifications}


def _read_source(view: View, value: Stored, listed: bool) -> Stored:
    form = view.switches.text("enrichment_source")
    if form == "spaces" and listed:
        return {f"{key} ": f"{v} " if isinstance(v, str) else v for key, v in value.items()}
    if form == "underscore_id":
        return {"_id" if key == "id" else key: item for key, item in value.items()}
    return dict(value)


# ---- processing: the normalization policy by name, the other two by id; `None` for none --------

_PROCESSING = Form(
    shape=Object(
        (
            Field(name="policy_name", shape=Text(), must=True),
            Field(name="norm_policy", shape=Text(), must=True),
            Field(name="enrich_policy", shape=Text(), must=True),
            Field(name="routing_policy", shape=Text(), must=True),
            Field(name="active", shape=Flag(), cleared=False),
        )
    )
)


def _paths(_view: View, values: Iterable[Stored]) -> object:
    return [{"paths": [value["path"] for value in values]}]


POLICIES: dict[str, Resource] = {
    "Repos": Resource(
        key="name",
        creates={"": Form(shape=Object((_NAME, *_TIERS)))},
        edits={"": Form(shape=Object(_TIERS))},
        refs=(
            Ref(path="hiddenrepopath[].path", to="RepoPaths", by="path", what="Repo path"),
            Ref(
                path="repoha[].ha_li",
                to="DistributedLogpoints",
                by="private_ip",
                what="Remote logpoint",
                check="unknown_logpoint",
                holds=False,
            ),
        ),
        born=_born_repo,
        read=_read_repo,
        parts={"RepoPaths": "RepoPaths"},
        fetches={"RemoteRepos": Fetch(rows=_remote_repos)},
        read_names={"repopath": "hiddenrepopath"},
    ),
    "RepoPaths": Resource(key="path", trash=False, stale=True, listing=_paths),
    "RoutingPolicies": Resource(
        key="policy_name",
        creates={"": _ROUTING},
        edits={"": _ROUTING},
        refs=(
            Ref(path="catch_all", to="Repos", by="name", what="Repo"),
            Ref(path="routing_criteria[].repo", to="Repos", by="name", what="Repo", free=("",)),
        ),
        born=lambda view: {"active": True, "tid": "", "user": view.switches.text("token_user")},
    ),
    "NormalizationPolicy": Resource(
        key="name",
        creates={"": Form(shape=Object((_NAME, *_NORM)))},
        edits={"": Form(shape=Object(_NORM))},
        refs=(
            Ref(path="norm_packages,", to="NormalizationPackage", what="Normalization package"),
            Ref(
                path="compiled_normalizer,",
                to="CompiledNormalizers",
                by="name",
                what="Compiled normalizer",
            ),
        ),
        born=lambda _view: {"active": True, "tid": ""},
        read=_read_norm,
    ),
    "NormalizationPackage": Resource(
        key="name",
        creates={
            "": Form(
                shape=Object(
                    (
                        Field(name="name", shape=_PACKAGE_NAME, must=True),
                        Field(name="description", shape=Text()),
                    )
                )
            )
        },
        edits={
            "": Form(
                shape=Object(
                    (
                        Field(name="description", shape=Text()),
                        Field(name="unused_signatures", shape=ListOf(Int()), cleared=False),
                        Field(name="order", shape=ListOf(Int()), cleared=False),
                    )
                )
            )
        },
        born=lambda _view: {
            "type": "user",
            "vid": "",
            "active": True,
            "version": 1,
            "share_is": False,
            "tid": "",
            "fields_info": [],
            "unused_signatures": [],
            "last_sig_id": 0,
            "signatures": [],
        },
        parts={"CompiledNormalizers": "CompiledNormalizers"},
        shared_actions={"install": installation("NormalizationPackage")},
        files=True,
    ),
    "CompiledNormalizers": Resource(key="name", trash=False, stale=True, listing=_named_compiled),
    "EnrichmentSource": Resource(key="source_name", trash=False, stale=True, read=_read_source),
    "EnrichmentPolicy": Resource(
        key="name",
        creates={"": _ENRICHMENT},
        edits={"": _ENRICHMENT},
        refs=(
            Ref(
                path="specifications[].source",
                to="EnrichmentSource",
                by="source_name",
                what="Enrichment source",
            ),
        ),
        read=_read_enrichment,
    ),
    "ProcessingPolicy": Resource(
        key="policy_name",
        creates={"": _PROCESSING},
        edits={"": _PROCESSING},
        refs=(
            Ref(
                path="norm_policy",
                to="NormalizationPolicy",
                by="name",
                what="Normalization policy",
                free=("None",),
            ),
            Ref(
                path="enrich_policy",
                to="EnrichmentPolicy",
                what="Enrichment policy",
                free=("None",),
            ),
            Ref(path="routing_policy", to="RoutingPolicies", what="Routing policy", free=("None",)),
        ),
        born=lambda _view: {"active": True, "tid": ""},
        body_id=True,
    ),
}
"""By the name in the path."""
