"""JMESPath with a few functions more: what system files read, they may also trim and divide.

div(a, b)  mod(a, b)   whole numbers, of numbers or texts of digits; null where there is none
trim(text)  upper(text)  lower(text)   null stays null
split(text, separator)                 a list, its items trimmed, empty ones left out
replace(text, old, new)                each occurrence
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jmespath
from jmespath import functions
from jmespath.exceptions import JMESPathError, JMESPathTypeError

__all__ = ["NAMES", "Expression", "JMESPathError", "JMESPathTypeError", "compiled"]

_TEXT: Any = {"types": ["string", "null"]}
_NUMBER: Any = {"types": ["number", "string", "null"]}
_SEPARATOR: Any = {"types": ["string"]}


class _Functions(functions.Functions):
    @functions.signature(_NUMBER, _NUMBER)
    def _func_div(self, value: Any, by: Any) -> int | None:
        return _whole(value, by, lambda a, b: a // b)

    @functions.signature(_NUMBER, _NUMBER)
    def _func_mod(self, value: Any, by: Any) -> int | None:
        return _whole(value, by, lambda a, b: a % b)

    @functions.signature(_TEXT)
    def _func_trim(self, text: str | None) -> str | None:
        return None if text is None else text.strip()

    @functions.signature(_TEXT)
    def _func_upper(self, text: str | None) -> str | None:
        return None if text is None else text.upper()

    @functions.signature(_TEXT)
    def _func_lower(self, text: str | None) -> str | None:
        return None if text is None else text.lower()

    @functions.signature(_TEXT, _SEPARATOR)
    def _func_split(self, text: str | None, separator: str) -> list[str] | None:
        if text is None:
            return None
        parts = text.split(separator) if separator else [text]
        return [part.strip() for part in parts if part.strip()]

    @functions.signature(_TEXT, _SEPARATOR, _SEPARATOR)
    def _func_replace(self, text: str | None, old: str, new: str) -> str | None:
        return None if text is None else text.replace(old, new) if old else text


def _whole(value: Any, by: Any, how: Any) -> int | None:
    try:
        return int(how(int(value), int(by)))
    except (TypeError, ValueError, ZeroDivisionError):
        return None


NAMES = tuple(sorted(_Functions.FUNCTION_TABLE))
_options = jmespath.Options(custom_functions=_Functions())


class Expression:
    """A compiled expression."""

    def __init__(self, text: str) -> None:
        self._compiled = jmespath.compile(text)

    @property
    def tree(self) -> Any:
        """What was parsed, as nested dicts."""
        return self._compiled.parsed

    def search(self, document: Any) -> Any:
        """What it finds. Raises: JMESPathError where a function does not fit the document."""
        return self._compiled.search(document, options=_options)


@lru_cache(maxsize=512)
def compiled(text: str) -> Expression:
    """The expression, compiled once. Raises: JMESPathError when it is none."""
    return Expression(text)
