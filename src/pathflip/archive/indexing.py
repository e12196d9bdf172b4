"""Fill an archive: encode feature files and write a row a slide, some at a time, from where an earlier run ended."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pathflip.archive.slide_rows import EncodedRow, IndexJob, encode_row
from pathflip.archive.text_vectors import TextProbe
from pathflip.archive.vector_tables import Archive, create_or_open, in_condition
from pathflip.errors import CaptionError, ConfigError
from pathflip.inference import Aligned
from pathflip.io.slide_id import join_ids, paths_by_id, slide_id
from pathflip.io.storage import state
from pathflip.io.tables import PLAIN, TableOptions, first_of, is_empty, read_table
from pathflip.text.captions import read_captions
from pathflip.text.case_tables import CASE_KEYS, slides_of

__all__ = ["IndexOutcome", "IndexRun", "RunIndexJobs", "SlideFacts", "index_features", "read_facts"]

PATCHES_A_SLIDE = 64
SLIDES_A_WRITE = 64
_SLIDE_KEYS = ("slide", "slide_id", "slide name", "filename", "file", "image", "id")
_PATIENT_KEYS = ("patient", "patient_id", "case_submitter_id")


@dataclass(frozen=True)
class IndexOutcome:
    """What became of a slide: status "indexed", "unchanged" or "failed"; ``mean_cosine`` and ``min_cosine`` say how
    well its stored patches stand for all."""

    slide_id: str
    status: str
    patches: int = 0
    stored: int = 0
    mean_cosine: float = 0.0
    min_cosine: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class SlideFacts:
    """What tables say of a slide: its case, patient and labels."""

    case_id: str = ""
    patient: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def read_facts(
    slide_ids: Sequence[str],
    captions: Path | None = None,
    labels: Path | None = None,
    options: TableOptions = PLAIN,
) -> dict[str, SlideFacts] | None:
    """Cases and patients of captions, and all columns of a table of labels, by slide; None where neither is given.

    Raises:
        CaptionError: a table cannot be read, has no column of slides, or names none of these slides.
    """
    if captions is None and labels is None:
        return None
    facts = {name: SlideFacts() for name in slide_ids}
    if captions is not None:
        named = [(one.slide_id, c) for c in read_captions(captions, options=options) for one in slides_of(c)]
        for name, caption in _joined(captions, named, slide_ids):
            case = getattr(caption, "case_id", "") or caption.slide_id
            facts[name] = SlideFacts(case, caption.patient)
    if labels is not None:
        rows = read_table(labels, options)
        keys = (options.slide_column, *_SLIDE_KEYS) if options.slide_column else _SLIDE_KEYS
        column = next((name for name in keys if name in rows[0]), None)
        if column is None:
            raise CaptionError(f"{labels.name}: no column of slides; expected one of {', '.join(keys)}")
        no_labels = {column.lower(), *CASE_KEYS, *_PATIENT_KEYS}
        named_rows = [(slide_id(row[column]), row) for row in rows if not is_empty(row.get(column))]
        for name, row in _joined(labels, named_rows, slide_ids):
            own = {str(k): str(v) for k, v in row.items() if str(k).lower() not in no_labels and not is_empty(v)}
            case, patient = (str(first_of(row, k) or "") for k in (CASE_KEYS, _PATIENT_KEYS))
            old = facts[name]
            facts[name] = SlideFacts(case or old.case_id, patient or old.patient, own)
    return facts


def _joined(path: Path, named: Sequence[tuple[str, Any]], slide_ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
    joined = join_ids([name for name, _ in named], slide_ids)
    if not joined:
        raise CaptionError(f"{path.name}: none of its {len(named)} slides is among the {len(slide_ids)} feature files")
    return ((joined[name], value) for name, value in named if name in joined)


@runtime_checkable
class IndexRun(Protocol):
    """Takes in encoded slides."""

    def end(self, encoded: EncodedRow) -> None:
        """A slide has been encoded, or has failed."""
        ...


RunIndexJobs = Callable[[Sequence[IndexJob], IndexRun], None]
"""Encodes slides somewhere and hands each on, once."""


class _Writing:
    """Takes in encoded slides and writes them, some at a time."""

    def __init__(
        self,
        archive: Archive,
        facts: Mapping[str, SlideFacts] | None,
        total: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self.outcomes: dict[str, IndexOutcome] = {}
        self._archive, self._facts, self._total, self._progress = archive, facts, total, progress
        self._present = _present(archive)
        self._states: dict[str, tuple[str, str]] = {}
        self._waiting: list[dict[str, Any]] = []

    def is_unchanged(self, name: str, path: Path) -> bool:
        """Whether the slide is there, and its file and facts are as they were."""
        states = self._states[name] = (_file_state(path), _facts_state(self._facts, name))
        old = self._present.get(name)
        if old is None or old[0] != states[0] or states[1] not in ("", old[1]):
            return False
        self._add(IndexOutcome(name, "unchanged"))
        return True

    def end(self, encoded: EncodedRow) -> None:
        name = encoded.slide_id
        if encoded.error:
            self._add(IndexOutcome(name, "failed", error=encoded.error))
            return
        states, old = self._states[name], self._present.get(name)
        facts = None if self._facts is None else self._facts.get(name, SlideFacts())
        columns = encoded.columns | _facts_columns(self._archive, facts, old, name)
        columns |= {"file_state": states[0], "facts_state": states[1] or (old[1] if old else "")}
        self._waiting.append(columns)
        if len(self._waiting) >= SLIDES_A_WRITE:
            self.write()
        self._add(_outcome(columns))

    def write(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._archive.write(self._waiting)
            self._waiting = []

    def _add(self, outcome: IndexOutcome) -> None:
        self.outcomes[outcome.slide_id] = outcome
        self._progress(len(self.outcomes), self._total)


def index_features(
    model: Aligned,
    files: Sequence[Path],
    folder: Path,
    *,
    facts: Mapping[str, SlideFacts] | None = None,
    slides: Mapping[str, Path] | None = None,
    patches_a_slide: int = PATCHES_A_SLIDE,
    run_jobs: RunIndexJobs | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[IndexOutcome]:
    """Encode feature files and keep their vectors in an archive, made where there is none.

    A slide that is there and whose file and facts are as they were is passed over; one whose file changed is replaced
    (and keeps its labels where none are given). What is written stays, however the run ends.

    Args:
        facts: see :func:`read_facts`. slides: slide files by slide id, for thumbnails.
        patches_a_slide: most patch embeddings kept of one.
        run_jobs: encodes elsewhere (:mod:`pathflip.archive.cluster_indexing`).

    Returns:
        One outcome a slide; a file that cannot be used is "failed", and the rest goes on.

    Raises:
        ContractError: the archive holds another model's vectors. OutputError: it cannot be written to.
        CaptionError: two files of one slide.
    """
    if patches_a_slide < 1:
        raise ConfigError(f"patches a slide: got {patches_a_slide}, expected 1 or more")
    by_id = paths_by_id(files)
    archive = create_or_open(folder, model, patches_a_slide)
    run = _Writing(archive, facts, len(by_id), progress)
    jobs = [
        IndexJob(name, path, patches_a_slide, None if slides is None else slides.get(name))
        for name, path in by_id.items()
        if not run.is_unchanged(name, path)
    ]
    if run_jobs is not None and jobs:
        run_jobs(jobs, run)
    elif jobs:
        probe = TextProbe.of(model)
        for job in jobs:
            run.end(encode_row(model, probe, job))
    run.write()
    if any(outcome.status == "indexed" for outcome in run.outcomes.values()):
        archive.tidy()
    return [run.outcomes[name] for name in by_id]


def _present(archive: Archive) -> dict[str, tuple[str, str]]:
    held = archive.rows(["slide_id", "file_state", "facts_state"])
    pairs = zip(held["file_state"], held["facts_state"], strict=True)
    return dict(zip(held["slide_id"], pairs, strict=True))


def _file_state(path: Path) -> str:
    return ":".join(map(str, state(path) or ("absent",)))


def _facts_state(facts: Mapping[str, SlideFacts] | None, name: str) -> str:
    """What changes when a table says something else of the slide; "" where no table is given."""
    if facts is None:
        return ""
    one = facts.get(name, SlideFacts())
    text = json.dumps([one.case_id, one.patient, dict(one.labels)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts_columns(archive: Archive, facts: SlideFacts | None, old: Any, name: str) -> dict[str, Any]:
    """Case, patient and labels: those given, or, of a slide that is there, those it has."""
    if facts is None and old is not None:
        stored = archive.rows(["case_id", "patient", *archive.labels.values()], in_condition([name]))
        labels = {label: stored[column][0] for label, column in archive.labels.items()}
        return {
            "case_id": stored["case_id"][0],
            "patient": stored["patient"][0],
            "labels": {label: value for label, value in labels.items() if value is not None},
        }
    one = facts or SlideFacts()
    return {"case_id": one.case_id or None, "patient": one.patient or None, "labels": dict(one.labels)}


def _outcome(row: Mapping[str, Any]) -> IndexOutcome:
    return IndexOutcome(
        row["slide_id"],
        "indexed",
        row["num_patches"],
        len(row["weights"]) // 4,
        round(row["mean_cosine"], 4),
        round(row["min_cosine"], 4),
    )
