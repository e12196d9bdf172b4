"""Regions that people draw, in an SQLite file beside the slides; two browsers, or two servers, may write at once.

Every change is committed before it is answered, so that a crash loses nothing that a page shows as kept. A change names
the version it was made on; where somebody else was faster it is refused, and the page shows theirs.
"""

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathflip.errors import ConfigError, OutputError

__all__ = ["DATABASE_NAME", "Annotations", "ChangedElsewhereError", "Region"]

DATABASE_NAME = "pathflip-regions.sqlite"
APPLICATION_ID = 0x50464C50
FORMAT = 1
LOCK_TIMEOUT_S = 10.0
MOST_REGIONS = 50_000
"""Of one slide."""

_TABLES = """
CREATE TABLE IF NOT EXISTS regions (
    id TEXT PRIMARY KEY, slide TEXT NOT NULL, geometry TEXT NOT NULL, name TEXT NOT NULL, classification TEXT NOT NULL,
    color TEXT NOT NULL, version INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS regions_of_slide ON regions (slide);
"""


@dataclass(frozen=True)
class Region:
    """One drawn region.

    Attributes:
        geometry: GeoJSON (Polygon, MultiPolygon, Point or MultiPoint), level-0 pixels.
        color: "#rrggbb". version: counts its changes, from 1.
    """

    id: str
    geometry: dict[str, Any]
    name: str = ""
    classification: str = ""
    color: str = "#d02020"
    version: int = 1

    def row(self) -> dict[str, Any]:
        """The region as JSON holds it."""
        return asdict(self)


class ChangedElsewhereError(Exception):
    """Somebody else changed or deleted the region first; ``current`` is theirs, None where it is gone."""

    def __init__(self, current: Region | None) -> None:
        super().__init__("changed elsewhere")
        self.current = current


class Annotations:
    """Regions by slide. The file is made when the first region is drawn; looking at slides writes nothing.

    Raises:
        ConfigError: the file is there and is no such database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        if path.exists():
            self._opened()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        is_new = not self.path.exists()
        try:
            if is_new and not self.path.parent.is_dir():
                raise OutputError(f"'{self.path}': no such folder; regions are kept there: make it, or name another")
            connection = sqlite3.connect(
                self.path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._prepare(connection)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OutputError(
                    f"'{self.path}': regions cannot be kept there ({error}); name another file with --annotations"
                ) from None
            raise ConfigError(f"'{self.path}': not a database of regions ({error}); name another file") from None
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        if self._is_made(connection, "BEGIN"):
            return
        # Another program may make the file at this moment: who holds the lock looks again.
        if not self._is_made(connection, "BEGIN IMMEDIATE", keep=True):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            for statement in filter(str.strip, _TABLES.split(";")):
                connection.execute(statement)
        connection.execute("COMMIT")

    def _is_made(self, connection: sqlite3.Connection, begin: str, keep: bool = False) -> bool:
        """Whether the file holds our tables, read in one transaction, which ``keep`` leaves open.

        Read apart, a file that another program makes in between looks like a stranger's.
        """
        connection.execute(begin)
        try:
            held = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        is_other = held and application != APPLICATION_ID
        if not keep or is_other or version > FORMAT:
            connection.execute("COMMIT")
        if is_other:
            raise ConfigError(f"'{self.path}': a database of another program; name another file with --annotations")
        if version > FORMAT:
            raise ConfigError(f"'{self.path}': format {version}, this PathFLIP reads up to {FORMAT}; update PathFLIP")
        return bool(held)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is kept, or nothing."""
        with self._lock:
            connection = self._opened()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise OutputError(f"'{self.path}': the region was not kept: {error}") from None

    def of(self, slide: str) -> list[Region]:
        """All regions of a slide, in the order they were made."""
        with self._lock:
            if self._connection is None and not self.path.exists():
                return []
            rows = self._opened().execute("SELECT * FROM regions WHERE slide = ? ORDER BY rowid", (slide,)).fetchall()
        return [_region(row) for row in rows]

    def add(self, slide: str, regions: Sequence[Region]) -> list[Region]:
        """Keep new regions, all or none.

        Raises:
            OutputError: they cannot be written. ConfigError: there are too many.
        """
        made = [Region(**(asdict(region) | {"id": str(uuid.uuid4()), "version": 1})) for region in regions]
        with self._writing() as connection:
            held = connection.execute("SELECT count(*) FROM regions WHERE slide = ?", (slide,)).fetchone()[0]
            if held + len(made) > MOST_REGIONS:
                raise ConfigError(f"{held + len(made)} regions on one slide, expected at most {MOST_REGIONS}")
            connection.executemany(
                "INSERT INTO regions VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(r.id, slide, json.dumps(r.geometry), r.name, r.classification, r.color, r.version) for r in made],
            )
        return made

    def change(self, slide: str, region: Region) -> Region:
        """Keep a changed region; its ``version`` is the one the change was made on.

        Raises:
            ChangedElsewhereError: that is no longer the current one.
        """
        with self._writing() as connection:
            self._check(connection, slide, region.id, region.version)
            connection.execute(
                "UPDATE regions SET geometry = ?, name = ?, classification = ?, color = ?, version = ? WHERE id = ?",
                (
                    json.dumps(region.geometry), region.name, region.classification, region.color, region.version + 1,
                    region.id,
                ),
            )  # fmt: skip
        return Region(**(asdict(region) | {"version": region.version + 1}))

    def delete(self, slide: str, identity: str, version: int) -> None:
        """Forget a region.

        Raises:
            ChangedElsewhereError: it was changed or deleted since ``version``.
        """
        with self._writing() as connection:
            self._check(connection, slide, identity, version)
            connection.execute("DELETE FROM regions WHERE id = ?", (identity,))

    def _check(self, connection: sqlite3.Connection, slide: str, identity: str, version: int) -> None:
        row = connection.execute("SELECT * FROM regions WHERE id = ? AND slide = ?", (identity, slide)).fetchone()
        current = None if row is None else _region(row)
        if current is None or current.version != version:
            raise ChangedElsewhereError(current)

    def data_version(self) -> int:
        """A number that changes when another program has changed the file; 0 while there is none."""
        with self._lock:
            if self._connection is None and not self.path.exists():
                return 0
            return int(self._opened().execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _region(row: tuple[Any, ...]) -> Region:
    identity, _, geometry, name, classification, color, version = row
    return Region(identity, json.loads(geometry), name, classification, color, version)
