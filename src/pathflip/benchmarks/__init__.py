"""Published benchmarks, one file each: run in one command, each number beside its chance level.

``run_benchmark`` runs one, ``PROTOCOLS`` lists them. A result is a folder with ``result.json`` and a page.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "PROTOCOLS": "registry",
    "find_protocol": "registry",
    "run_benchmark": "runner",
    "read_result": "result",
    "write_page": "result_page",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathflip.benchmarks' has no attribute '{name}'")
    return getattr(import_module(f"pathflip.benchmarks.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
