"""Settings of a recipe changed from the command line: ``--set train.steps=100``."""

import difflib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pathflip.arguments import as_texts
from pathflip.errors import ConfigError

__all__ = ["Recipe", "with_settings"]

Recipe = TypeVar("Recipe", bound=BaseModel)


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Apply ``key.path=value`` settings; values are read as JSON where they can be.

    Raises:
        ConfigError: an unknown key (with a suggestion) or a value out of range.
    """
    values = recipe.model_dump(mode="json")
    for setting in as_texts(settings, "settings"):
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set: got '{setting}', expected KEY=VALUE, for example train.optim.lr=5e-4")
        _assign(values, recipe, path, _json(text))
    try:
        return type(recipe).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"--set {where}: {first['msg']} (got {first['input']!r})") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(values: dict[str, Any], recipe: BaseModel, path: str, value: Any) -> None:
    """Set ``values[a][b][c]`` for the path ``a.b.c``; ``recipe`` tells settings from free dictionaries.

    A dictionary of the recipe (``model``, ``assistant``, ``built``) holds fields of another configuration, which
    judges their names when it is built: there a new key may be set, but nothing below it.
    """
    node: Any = values
    declared: Any = recipe
    keys = path.split(".")
    for depth, key in enumerate(keys):
        above = ".".join(keys[:depth])
        if not isinstance(node, dict):
            raise ConfigError(
                f"--set: unknown setting '{path}'; '{above}' is a single value ({node!r}); expected {above}=VALUE"
            )
        is_last = depth == len(keys) - 1
        may_be_new = isinstance(declared, dict) and is_last and key
        if key not in node and not may_be_new:
            close = difflib.get_close_matches(key, node, n=1)
            hint = f"; did you mean '{'.'.join([*keys[:depth], close[0]])}'?" if close else ""
            raise ConfigError(f"--set: unknown setting '{path}'; expected one of {', '.join(node)} there{hint}")
        if not is_last:
            node = node[key]
            declared = declared.get(key) if isinstance(declared, dict) else getattr(declared, key)
    node[keys[-1]] = value
