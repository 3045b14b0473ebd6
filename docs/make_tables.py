"""The generated parts of the documentation: `python docs/make_tables.py` writes them anew."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

DOCS = Path(__file__).parent
SOURCES = DOCS.parent / "src" / "dsync"
_CODE = re.compile(r"DS-[A-Z0-9]+(-[A-Z0-9]+)*")


def transforms() -> str:
    """The catalogue of transforms."""
    from dsync.transforms import CATALOGUE

    rows = ["| transform | parameters | checked | |", "|---|---|---|---|"]
    for name, entry in sorted(CATALOGUE.items()):
        checked = f"yes: {entry.expects}" if entry.checked else ""
        rows.append(f"| `{name}` | {_parameters(entry.function)} | {checked} | {entry.summary} |")
    return "\n".join(rows)


def checks() -> str:
    """The catalogue of checks."""
    from dsync.checks import CATALOGUE

    rows = ["| check | parameters | the rule |", "|---|---|---|"]
    for name, entry in sorted(CATALOGUE.items()):
        rows.append(f"| `{name}` | {_parameters(entry.function)} | {entry.summary} |")
    return "\n".join(rows)


def functions() -> str:
    """The SQL functions that a profile may call."""
    from dsync.expressions import FUNCTIONS

    return ", ".join(f"`{name}`" for name in sorted(FUNCTIONS))


def system() -> str:
    """The keys of system files, model by model."""
    from dsync import system as module

    parts = []
    names = (
        "System Auth Envelope Answers Limits Paging Jobs Poll Resource List Listed Each Within "
        "EmptyIf Write Request"
    )
    for name in names.split():
        model = getattr(module, name)
        head = (inspect.getdoc(model) or "").replace("\n\n", "\n\n").strip()
        rows = [f"### {name}", "", head, "", "| key | type | default | |", "|---|---|---|---|"]
        for key, field in model.model_fields.items():
            default = (
                "" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
            )
            if len(default) > 60:
                default = "see the model"
            text = (field.description or "").replace("|", "\\|")
            rows.append(
                f"| `{field.alias or key}` | {_type(field.annotation)} | {default} | {text} |"
            )
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def errors() -> str:
    """All codes with the messages and next steps that stand in the code."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        if "emulators" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for code, message, hint in _told(node):
                    found.setdefault(code, []).append((message, hint))
            elif isinstance(node, ast.Constant) and _CODE.fullmatch(str(node.value)):
                found.setdefault(str(node.value), [])
    rows = ["| code | what is said (`…` is filled in) | next |", "|---|---|---|"]
    for code in sorted(found):
        if code.endswith("-"):
            continue
        told = list(dict.fromkeys(pair for pair in found[code] if pair[0]))
        messages = " / ".join(dict.fromkeys(message for message, _ in told)) or "see the message"
        hints = " / ".join(dict.fromkeys(hint for _, hint in told if hint))
        rows.append(f"| `{code}` | {_cell(messages)} | {_cell(hints)} |")
    return "\n".join(rows)


def lint() -> str:
    """The codes of the linter."""
    from dsync.lint import RULES

    rows = ["| code | level | meaning | next |", "|---|---|---|---|"]
    for code, rule in sorted(RULES.items()):
        said = f"{_cell(rule.message)} | {_cell(rule.hint)}"
        rows.append(f"| `{code}` | {rule.level} | {said} |")
    return "\n".join(rows)


TABLES = {
    "profiles.md": {"transforms": transforms, "checks": checks, "functions": functions},
    "systems.md": {"system": system},
    "errors.md": {"errors": errors},
    "lint.md": {"lint": lint},
}


def render(file: str) -> str:
    """The text of a page with its tables made anew."""
    text = (DOCS / file).read_text(encoding="utf-8")
    for name, make in TABLES[file].items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda m: f"{m[1]}{make()}\n{m[2]}", text)  # noqa: B023
        if count != 1:
            raise SystemExit(f"{file} has no place for the table {name}")
    return text


def _parameters(function: Any) -> str:
    parts = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.default is parameter.empty:
            parts.append(f"`{parameter.name}` (required)")
        elif parameter.default is ...:
            parts.append(f"`{parameter.name}`")
        else:
            parts.append(f"`{parameter.name}` = `{parameter.default!r}`".replace("|", "\\|"))
    return ", ".join(parts)


def _type(annotation: Any) -> str:
    if annotation is Any:
        return "any"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        return " or ".join(_type(arg) for arg in args if arg is not type(None))
    if str(origin) == "typing.Literal":
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is Annotated:
        return _type(args[0])
    if origin in (list, tuple):
        return f"list of {_type(args[0])}"
    if origin is dict:
        return f"map to {_type(args[1])}"
    return {"str": "text", "bool": "yes or no", "int": "number", "float": "number"}.get(
        annotation.__name__, f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    )


def _told(call: ast.Call) -> list[tuple[str, str, str]]:
    """(code, message, hint) of a call that tells a fault or a finding."""
    words = {word.arg: word.value for word in call.keywords if word.arg}
    texts = [_text(arg) for arg in call.args]
    codes = [_text(words["code"])] if "code" in words else [t for t in texts if _CODE.fullmatch(t)]
    message = _text(words["message"]) if "message" in words else (texts[0] if texts else "")
    hint = _text(words["hint"]) if "hint" in words else ""
    if _CODE.fullmatch(message):
        message = texts[1] if len(texts) > 1 else ""
    return [(code, message, hint) for code in codes if _CODE.fullmatch(code)]


def _text(node: ast.AST) -> str:
    """A text of the code, with `…` for what is filled in; SQL quotes are dropped."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.strip("' ") if node.value.startswith("'") else node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.IfExp):
        return _text(node.body) or _text(node.orelse)
    return ""


def _cell(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return plain if len(plain) <= 300 else plain[:299] + "…"


if __name__ == "__main__":
    for page in TABLES:
        (DOCS / page).write_text(render(page), encoding="utf-8")
        sys.stdout.write(f"{page}\n")
