"""Arguments that are lists: one text or one path alone is a list of one, never its letters."""

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Paths", "as_paths", "as_texts", "refuse_text"]

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One path, or several."""


def as_texts(texts: str | Iterable[str], what: str) -> list[str]:
    """Texts as a list; a text alone is one.

    Raises:
        TypeError: something else than texts; ``what`` names the argument.
    """
    if isinstance(texts, bytes) or not isinstance(texts, str | Iterable):
        raise TypeError(f"{what}: got a {type(texts).__name__}, expected a text or a list of texts")
    listed = [texts] if isinstance(texts, str) else list(texts)
    for place, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"{what}: number {place + 1} is a {type(text).__name__}, expected a text")
    return listed


def as_paths(paths: Paths, what: str) -> list[Path]:
    """Paths as a list; a path alone is one.

    Raises:
        TypeError: something else than paths; ``what`` names the argument.
    """
    if isinstance(paths, bytes) or not isinstance(paths, str | os.PathLike | Iterable):
        raise TypeError(f"{what}: got a {type(paths).__name__}, expected a path or a list of paths")
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    for place, path in enumerate(listed):
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"{what}: number {place + 1} is a {type(path).__name__}, expected a path")
    return [Path(path) for path in listed]


def refuse_text(values: object, what: str, expected: str = "a list of texts") -> None:
    """Refuse one text where a list belongs and one alone would mean nothing.

    Raises:
        TypeError: it is a text.
    """
    if isinstance(values, str | bytes):
        raise TypeError(f"{what}: got the text {values[:30]!r}, expected {expected}")
