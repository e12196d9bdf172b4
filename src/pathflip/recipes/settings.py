"""Settings of a recipe changed from the command line: ``--set train.steps=100``."""

import difflib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pathflip.errors import ConfigError

__all__ = ["Recipe", "with_settings"]

Recipe = TypeVar("Recipe", bound=BaseModel)


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Apply ``key.path=value`` settings; values are read as JSON where they can be.

    Raises:
        ConfigError: an unknown key (with a suggestion) or a value out of range.
    """
    values = recipe.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set: got '{setting}', expected KEY=VALUE, for example train.optim.lr=5e-4")
        _assign(values, path, _json(text))
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


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    node, keys = values, path.split(".")
    for depth, key in enumerate(keys):
        free = keys[:depth] in (["model"], ["assistant"], ["built"])  # fields of another configuration
        if key not in node and not free:
            close = difflib.get_close_matches(key, node, n=1)
            hint = f"; did you mean '{'.'.join([*keys[:depth], close[0]])}'?" if close else ""
            raise ConfigError(f"--set: unknown setting '{path}'; expected one of {', '.join(node)} there{hint}")
        if depth < len(keys) - 1:
            node = node[key]
    node[keys[-1]] = value
