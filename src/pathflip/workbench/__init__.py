"""The workbench: a slide viewer in the browser that asks the model where, what and which cases (``pathflip view``).

The server is Starlette; the page is TypeScript (``workbench/`` at the top of the project), built into ``static/``.
"""

from importlib import import_module
from typing import Any

_WHERE = {"Library": "library", "Settings": "web_server", "create_app": "web_app", "open_workbench": "web_server"}

__all__ = ["Library", "Settings", "create_app", "open_workbench"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathflip.workbench' has no attribute '{name}'")
    return getattr(import_module(f"pathflip.workbench.{_WHERE[name]}"), name)
