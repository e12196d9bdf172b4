"""Published test sets, told apart by row count and by a hash of what they say."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pathflip.errors import CaptionError

__all__ = ["KnownSet", "content_hash", "recognise"]


@dataclass(frozen=True)
class KnownSet:
    """A published set: its rows, what it is called, and the hash of its content where a copy was at hand."""

    rows: int
    name: str
    digest: str = ""


def content_hash(rows: Iterable[Sequence[str]]) -> str:
    """A hash of rows of text, whatever their order, line endings, file format or further columns."""
    lines = sorted("\x1f".join(" ".join(cell.split()) for cell in row) for row in rows)
    return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()[:16]


def recognise(file: str, rows: Sequence[Sequence[str]], known: Sequence[KnownSet], other_set: bool) -> tuple[str, bool]:
    """Which published set these rows are: its name, and whether published values are of it.

    Args:
        file: name of the file, for messages. rows: what identifies each item (slide, question, options, answer).
        known: the published sets. other_set: take a file that is none of them.

    Raises:
        CaptionError: rows and content disagree with every published set, and ``other_set`` is not given.
    """
    digest, count = content_hash(rows), len(rows)
    same_size = [one for one in known if one.rows == count]
    for one in same_size:
        if one.digest == digest:
            return f"{one.name} ({count:,} rows, content verified)", True
    if same_size and any(not one.digest for one in same_size):
        return f"{same_size[0].name} ({count:,} rows; told by their number, content hash {digest})", True
    if other_set:
        return f"another set of {count:,} rows (content hash {digest}); published values are of other items", False
    if same_size:
        raise CaptionError(
            f"{file}: has {count:,} rows like {same_size[0].name}, but says other things (content hash {digest}, "
            f"expected {same_size[0].digest}): it was changed; expected the published file, or --other-set to score it "
            "under its own name"
        )
    sizes = ", ".join(f"{one.rows:,} ({one.name})" for one in known)
    raise CaptionError(
        f"{file}: has {count:,} rows; the published sets have {sizes}; expected one of them, or --other-set to score "
        "it under its own name"
    )
