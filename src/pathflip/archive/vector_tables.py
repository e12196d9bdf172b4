"""The archive on disk: one LanceDB table with a row a slide, and ``archive.json``, which says of which model they are.

```text
ARCHIVE/
  archive.json    format and version, the model, its input contract, patches a slide, labels (name -> column)
  slides.lance/   LanceDB's own files; every write is a new version of the table, whole or not there
  .lock           held while a writer adds rows
```

docs/formats.md specifies the columns.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from pathflip import __version__
from pathflip.archive.where import quoted
from pathflip.errors import ConfigError, ContractError, FeatureError, MissingExtraError, OutputError
from pathflip.io.files import check_writable, write_json
from pathflip.io.locks import waiting_lock
from pathflip.io.storage import as_url, exists, list_folder, read_bytes, shown, written_to

if TYPE_CHECKING:
    from pathflip.inference import Aligned

__all__ = ["Archive", "ArchiveModel", "create_or_open", "model_of", "open_archive"]

FORMAT = "pathflip-archive"
FORMAT_VERSION = 2
TABLE = "slides"
INDEX_FROM = 50_000
"""Rows from which an index pays: below, a scan of all vectors takes less than a tenth of a second (bench/search.py)."""
NUM_PROBES = 200
"""Partitions of about √rows that a query reads: R@10 above 0.95 of a million in bench/search.py."""
NUM_PROBES_FAR = 400
"""The same for a query that stands far out, from which many partitions are about as near."""
ROWS_TO_TRAIN = 256
VECTORS = ("vector", "patch_vector", "text_vector")
FAR = 300.0
"""Where a direction stands as a query, in distances between vectors: the nearest then have the largest product."""
OWN_COLUMNS = ("slide_id", "case_id", "patient")
"""Beside the labels, what a condition may name."""


@dataclass(frozen=True)
class ArchiveModel:
    """The model whose vectors an archive holds: ``digest`` is of its weights, words and settings; ``path`` a hint."""

    digest: str
    path: str
    embed_dim: int
    contract: Mapping[str, Any]


def model_of(model: "Aligned") -> ArchiveModel:
    """What identifies a model: two of one digest give the same vectors."""
    checkpoint = model.checkpoint
    if checkpoint.path is None:
        raise ConfigError("archive: the model was not read from a checkpoint directory, so nothing identifies it")
    digest = hashlib.sha256()
    keys = ("model", "text", "contract")
    digest.update(json.dumps([checkpoint.config[key] for key in keys], sort_keys=True).encode())
    tokenizer = sorted((checkpoint.path / "tokenizer").glob("tokenizer.json"))
    for file in [checkpoint.path / "model.safetensors", *tokenizer]:
        with open(file, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    width = int(checkpoint.config["model"].get("embed_dim", 0)) or _width(model)
    return ArchiveModel(
        digest.hexdigest()[:32], str(checkpoint.path.resolve()), width, checkpoint.contract.model_dump()
    )


def _width(model: "Aligned") -> int:
    from pathflip.inference import encode_text

    return int(encode_text(model, ["tissue"]).caption.shape[1])


@dataclass(eq=False)
class Archive:
    """An open archive. Reading sees the newest whole version of the table; several may read while one writes."""

    folder: Path
    model: ArchiveModel
    patches_a_slide: int
    labels: dict[str, str] = field(default_factory=dict)
    """Name of a label -> its column."""
    table: Any = None

    @property
    def columns(self) -> dict[str, str]:
        """Names a condition may use -> columns of the table."""
        own = {name: name for name in OWN_COLUMNS}
        return own | self.labels | own

    def check_model(self, model: "Aligned") -> None:
        """Refuse another model.

        Raises:
            ContractError: it is not the one whose vectors the archive holds.
        """
        other = model_of(model)
        if other.digest != self.model.digest:
            raise ContractError(
                f"{shown(self.folder)}: holds vectors of the model {self.model.digest[:12]} ('{self.model.path}'), not "
                f"of {other.digest[:12]} ('{other.path}'); give that model, or index into another --archive"
            )

    def __len__(self) -> int:
        return 0 if self.table is None else int(self.table.count_rows())

    def reopen(self) -> None:
        """See what other writers have done since."""
        stored = _read_settings(self.folder)
        self.labels = dict(stored["labels"])
        with database_errors(self.folder, "read"):
            self.table = _open_table(self.folder)

    def rows(
        self, columns: Sequence[str], where: str = "", limit: int | None = None, offset: int | None = None
    ) -> dict[str, list[Any]]:
        """Columns of the rows that fulfil a condition (an expression of :func:`pathflip.archive.where.condition`)."""
        if self.table is None:
            return {column: [] for column in columns}
        with database_errors(self.folder, "read"):
            query = self.table.search().select(list(columns))
            if where:
                query = query.where(where)
            if offset:
                query = query.offset(offset)
            held: dict[str, list[Any]] = query.limit(limit or max(1, len(self))).to_arrow().to_pydict()
        return held

    def nearest(
        self,
        column: str,
        vector: Float[np.ndarray, " E"],
        count: int,
        where: str = "",
        exact: bool = False,
        probes: int = NUM_PROBES,
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Row ids and cosines of the rows whose vector in a column is most like a unit vector, best first.

        Args:
            exact: read every vector, whatever the index says.
            probes: partitions of the index that are read.
        """
        none = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if self.table is None or not len(self):
            return none
        with database_errors(self.folder, "read"):
            query = self.table.search(np.asarray(vector, np.float32), vector_column_name=column).distance_type("l2")
            query = query.with_row_id(True).select(["_distance"]).limit(count)
            query = query.bypass_vector_index() if exact else query.nprobes(probes)
            result = (query.where(where, prefilter=True) if where else query).to_arrow()
        if not len(result):
            return none
        cosine = 1 - result["_distance"].to_numpy() / 2
        return result["_rowid"].to_numpy().astype(np.int64), np.asarray(cosine, np.float32)

    def farthest(
        self,
        column: str,
        direction: Float[np.ndarray, " E"],
        some: Float[np.ndarray, "n E"],
        count: int,
        where: str = "",
    ) -> Int[np.ndarray, " m"]:
        """Row ids of the rows whose vector in a column has the largest product with a direction, best first.

        Args:
            some: vectors of that column, to know where they lie.
        """
        middle = some.mean(0)
        apart = max(float(np.linalg.norm(some - middle, axis=1).max()), 1e-6)
        length = max(float(np.linalg.norm(direction)), 1e-12)
        far_out = middle + FAR * apart * direction / length
        return self.nearest(column, far_out, count, where, probes=NUM_PROBES_FAR)[0]

    def take(self, row_ids: Int[np.ndarray, " n"], columns: Sequence[str]) -> Any:
        """An Arrow table of these rows, in their order."""
        import pyarrow as pa

        with database_errors(self.folder, "read"):
            query = self.table.take_row_ids([int(row) for row in row_ids]).select(list(columns)).with_row_id()
            result = query.to_arrow()
        place = {row: number for number, row in enumerate(result["_rowid"].to_pylist())}
        return result.take(pa.array([place[int(row)] for row in row_ids], pa.int64()))

    def holds(self, slide_id: str) -> bool:
        """Whether a slide is there."""
        return bool(self.rows(["slide_id"], in_condition([slide_id]), limit=1)["slide_id"])

    def thumbnail(self, slide_id: str) -> bytes | None:
        """A slide's small JPEG; None where it has none."""
        held = self.rows(["thumbnail"], in_condition([slide_id]), limit=1)["thumbnail"]
        return held[0] if held else None

    def with_thumbnail(self, slide_ids: Sequence[str]) -> set[str]:
        """Which of these slides have a thumbnail."""
        if not slide_ids:
            return set()
        where = f"{in_condition(slide_ids)} AND thumbnail IS NOT NULL"
        return set(self.rows(["slide_id"], where)["slide_id"])

    def label_values(self, most: int) -> dict[str, list[str]]:
        """The values of every label that has at most so many."""
        held = self.rows(list(self.labels.values())) if self.labels else {}
        values = {name: sorted({v for v in held[column] if v is not None}) for name, column in self.labels.items()}
        return {name: some for name, some in values.items() if len(some) <= most}

    def spread_row_ids(self, count: int) -> Int[np.ndarray, " n"]:
        """Row ids of at most ``count`` rows, evenly spread over the table."""
        total = len(self)
        if not total:
            return np.zeros(0, np.int64)
        offsets = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
        with database_errors(self.folder, "read"):
            result = self.table.take_offsets(offsets.tolist()).select(["slide_id"]).with_row_id().to_arrow()
        return np.sort(result["_rowid"].to_numpy().astype(np.int64))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, or replace those of the same slide, all or none; the lock is taken for this moment only."""
        import pyarrow as pa

        with self.locked(), database_errors(self.folder, "write"):
            self.reopen()
            if self.table is None:
                self.table = connect(self.folder).create_table(TABLE, schema=schema_of(self.model.embed_dim))
            self._make_columns({name for row in rows for name in row["labels"]})
            plain = [
                {key: value for key, value in row.items() if key != "labels"}
                | {self.labels[name]: value for name, value in row["labels"].items()}
                for row in rows
            ]
            batch = pa.Table.from_pylist(plain, schema=self.table.schema)
            merge = self.table.merge_insert("slide_id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(batch)

    def _make_columns(self, names: set[str]) -> None:
        """Columns for labels that are new; under the lock."""
        import pyarrow as pa

        new = sorted(names - self.labels.keys())
        if not new:
            return
        first = 1 + max(
            [int(n.removeprefix("label_")) for n in self.table.schema.names if n.startswith("label_")] or [0]
        )
        columns = {name: f"label_{first + number}" for number, name in enumerate(new)}
        self.table.add_columns([pa.field(column, pa.string()) for column in columns.values()])
        self.labels |= columns
        _write_settings(self)

    def tidy(self) -> None:
        """Join small pieces, and make or renew the index where one pays."""
        if self.table is None:
            return
        with self.locked(), database_errors(self.folder, "write"):
            self.reopen()
            self.table.optimize()
            rows = len(self)
            indexed = {column for index in self.table.list_indices() for column in index.columns}
            if rows >= INDEX_FROM:
                for column in VECTORS:
                    if column not in indexed:
                        make_index(self.table, column, rows)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; others wait for the moment. An object store has no locks."""
        try:
            with nullcontext() if as_url(self.folder) else waiting_lock(self.folder / ".lock"):
                yield
        except OSError as error:
            raise OutputError(
                f"'{shown(self.folder)}': {error.strerror or error}; nothing of this batch was written: make room, or "
                "check permissions, and run the same command again"
            ) from error


def make_index(table: Any, column: str, rows: int) -> None:
    """An inverted-file index over whole vectors (IVF; Jégou et al. 2011), of about √rows partitions."""
    from lancedb.index import IvfFlat

    partitions = max(16, round(rows**0.5))
    config = IvfFlat(distance_type="l2", num_partitions=partitions, sample_rate=ROWS_TO_TRAIN)
    table.create_index(column, config=config, replace=True)


def create_or_open(folder: Path, model: "Aligned", patches_a_slide: int) -> Archive:
    """The archive in a folder, made where there is none, to write a model's vectors to.

    In an object store (``s3://``, ``gs://``, ``az://``) one process at a time may write: there are no locks.

    Raises:
        ContractError: it holds another model's. ConfigError: another number of patches a slide, or the folder holds
            something else. OutputError: it cannot be written to.
    """
    _lancedb()
    try:
        if as_url(folder) is None:
            check_writable(folder)
        with nullcontext() if as_url(folder) else waiting_lock(folder / ".lock"):
            if not exists(folder / "archive.json"):
                if others := [path.name for path in list_folder(folder) if path.name[0] != "."]:
                    raise ConfigError(
                        f"'{shown(folder)}': holds '{others[0]}' and is no archive; choose another --archive"
                    )
                _write_settings(Archive(folder, model_of(model), patches_a_slide))
    except OSError as error:
        raise OutputError(f"'{shown(folder)}': {error.strerror or error}; choose another --archive") from error
    archive = open_archive(folder)
    archive.check_model(model)
    if archive.patches_a_slide != patches_a_slide:
        raise ConfigError(
            f"'{shown(folder)}': keeps {archive.patches_a_slide} patches a slide, got {patches_a_slide}; give  "
            f"--patches {archive.patches_a_slide}, or another --archive"
        )
    return archive


def open_archive(folder: Path) -> Archive:
    """An archive to search.

    Raises:
        ConfigError: there is none, or it is of another version. FeatureError: it is damaged.
    """
    _lancedb()
    stored = _read_settings(folder)
    archive = Archive(folder, ArchiveModel(**stored["model"]), stored["patches_a_slide"], dict(stored["labels"]))
    with database_errors(folder, "read"):
        archive.table = _open_table(folder)
    return archive


def _read_settings(folder: Path) -> dict[str, Any]:
    file = folder / "archive.json"
    if not _exists(file):
        raise ConfigError(f"'{shown(folder)}': no archive there (no archive.json); make one with  pathflip index")
    try:
        stored = json.loads(read_bytes(file))
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise ConfigError(f"'{shown(file)}': is of another program; expected an archive made by  pathflip index")
        if stored.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"'{shown(file)}': is version {stored.get('format_version')!r}, expected {FORMAT_VERSION}; written by "
                f"pathflip {stored.get('pathflip_version')}, this is {__version__}; index again into another --archive"
            )
        ArchiveModel(**stored["model"])
        if not isinstance(stored["patches_a_slide"], int):
            raise TypeError("patches_a_slide is no number")
        labels = dict(stored["labels"])
        if not all(isinstance(c, str) and c.startswith("label_") and c[6:].isdecimal() for c in labels.values()):
            raise ValueError("labels name foreign columns")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FeatureError(f"'{shown(file)}': damaged ({str(error)[:80]}); restore it, or index again") from error
    return stored


def _exists(file: Path) -> bool:
    """Raises: FeatureError: an object store that cannot be reached, or refuses."""
    try:
        return exists(file)
    except OSError as error:
        raise FeatureError(f"'{shown(file)}': cannot be reached ({error.strerror or error})") from error


def _write_settings(archive: Archive) -> None:
    settings = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "pathflip_version": __version__,
        "model": asdict(archive.model),
        "patches_a_slide": archive.patches_a_slide,
        "labels": archive.labels,
    }
    with written_to(archive.folder / "archive.json") as local:
        write_json(local, settings)


def schema_of(embed_dim: int) -> Any:
    """The columns every archive has."""
    import pyarrow as pa

    vector = pa.list_(pa.float32(), embed_dim)
    texts = [pa.field(name, pa.string()) for name in ("slide_id", "case_id", "patient", "file", "file_state")]
    bytes_ = [pa.field(name, pa.binary()) for name in ("patches", "scales", "weights", "boxes", "thumbnail")]
    numbers = [pa.field(name, pa.int32()) for name in ("num_patches", "width0", "height0")]
    cosines = [pa.field(name, pa.float32()) for name in ("mean_cosine", "min_cosine")]
    both = pa.list_(pa.float32(), 2 * embed_dim)
    vectors = [pa.field("vector", vector), pa.field("patch_vector", vector), pa.field("text_vector", both)]
    return pa.schema([*texts, pa.field("facts_state", pa.string()), *numbers, *cosines, *vectors, *bytes_])


def _lancedb() -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # it tells of every empty partition of an index
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtraError("lancedb", "archive", "an archive of slides") from error
    return lancedb


def connect(folder: Path) -> Any:
    """LanceDB's handle on the folder; of an object store with the credentials of the environment."""
    return _lancedb().connect(as_url(folder) or str(folder))


def _open_table(folder: Path) -> Any:
    """The table; None where nothing was written yet."""
    there = list_folder(folder / f"{TABLE}.lance") if as_url(folder) else (folder / f"{TABLE}.lance").is_dir()
    table = connect(folder).open_table(TABLE) if there else None
    if table is not None and "slide_id" not in table.schema.names:  # a torn manifest reads as a table of nothing
        raise FeatureError(f"'{shown(folder)}': damaged (its table has no columns); restore it, or index again")
    return table


@contextmanager
def database_errors(folder: Path, doing: str) -> Iterator[None]:
    """The database's own errors, of several lines, as one line.

    Raises:
        OutputError: while writing. FeatureError: while reading.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if doing == "write":
            raise OutputError(
                f"'{shown(folder)}': this batch was not written ({reason}); what was is whole: make room, or check "
                "permissions, and run the same command again"
            ) from error
        raise FeatureError(f"'{shown(folder)}': cannot be read ({reason}); restore it, or index again") from error


def in_condition(slide_ids: Sequence[str]) -> str:
    """The condition that a row is of one of these slides."""
    return f"slide_id IN ({', '.join(map(quoted, slide_ids))})"
