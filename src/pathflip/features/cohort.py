"""Slides to feature files: a cohort that survives what happens to cohorts (``docs/robustness.md``).

A run may be killed at any moment and started again: files appear whole or not at all, finished slides are checked
and skipped, and files made with other settings are never mixed in.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pathflip.arguments import Paths, as_paths
from pathflip.errors import ConfigError, FeatureError
from pathflip.features.encoder_protocol import Encoder
from pathflip.features.extraction import ExtractOutcome, SlideJob, output_error, run_job
from pathflip.features.foundation import contract_warning
from pathflip.features.outcomes import CohortRun, ExtractProgress, FailureList
from pathflip.features.store import features_path, read_counts, read_features, read_settings
from pathflip.features.workers import EncoderChoice, run_in_processes
from pathflip.geometry import TileSpec
from pathflip.io.files import write_json
from pathflip.io.locks import only_writer
from pathflip.io.slide_id import normal_name
from pathflip.io.storage import as_url, list_folder, local_path, read_bytes, remove, state, write_bytes
from pathflip.slide.artefacts import ArtefactSpec
from pathflip.slide.paths import slide_names
from pathflip.slide.resolution_table import SlideResolution, mpp_of
from pathflip.slide.tissue import TissueSpec

__all__ = ["RunJobs", "extract_cohort"]

RunJobs = Callable[[Sequence[SlideJob], CohortRun], None]
"""Does jobs somewhere and hands each outcome to ``CohortRun.end``, once."""

_SETTINGS = ".settings.json"
"""In a features folder: what all its files were made with."""


def extract_cohort(
    paths: Paths,
    spec: TileSpec,
    encoder: str | Encoder,
    out: str | Path,
    *,
    slide_mpp: SlideResolution | None = None,
    tissue: TissueSpec | None = None,
    exclude: ArtefactSpec | None = None,
    num_workers: int | None = None,
    batch_size: int = 256,
    device: str | None = None,
    precision: str = "auto",
    overwrite: bool = False,
    names: str = "auto",
    run_jobs: RunJobs | None = None,
    progress: Callable[[ExtractProgress], None] | None = None,
    warn: Callable[[str], Any] = warnings.warn,
) -> list[ExtractOutcome]:
    """Find tissue, cut tiles, encode and write features for every slide: ``out/features_<encoder>/<slide>.h5``.

    Slides that fail are listed in ``out/failures.jsonl`` and the batch goes on. Slides finished earlier with the
    same settings are checked and skipped, so a killed run is continued by the same command.

    Args:
        paths: slide files; their names must differ. One named twice is done once.
        spec: which tiles to cut.
        encoder: a name or ``hf:FOLDER`` (see :func:`load_encoder`), or an encoder object (then one process).
        out: folder for results, or an object store (``s3://bucket/folder``; slides may come from one, too: each is
            downloaded to the machine that works on it, and removed again).
        slide_mpp: microns per level-0 pixel, for slides that do not say.
        tissue: how tissue is searched for.
        exclude: leave out tiles that artefacts found in this way have spoilt, and list them with the reason in
            ``<slide>.excluded.csv`` beside the features; None keeps all.
        num_workers: processes, each with whole slides; None takes one a processor core, or one a GPU. Scripts
            that use more than one need the usual ``if __name__ == "__main__":`` guard.
        batch_size: tiles encoded at once.
        device: where to encode; None and "cuda" spread the processes over the GPUs, None goes without where there are
            none.
        precision: see :func:`load_encoder`; for an encoder given by name.
        overwrite: extract again what is there.
        names: "stem" calls a slide by its file name; "folder" puts its folder in front (``P001__slide1``); "auto" does
            so only for file names that repeat.
        run_jobs: does the work elsewhere (``pathflip.features.cluster``); None does it in processes of this machine.
        progress: called as slides and batches end.
        warn: told, once, that tiles are not cut as the encoder was trained.

    Returns:
        One outcome a slide, in the order of ``paths``.

    Raises:
        ConfigError: equal names; files from other settings (named) without ``overwrite``, or of slides that are not
            in this run; or another run is writing to the same folder.
        OutputError: results cannot be written (disk full, no permission). What is finished stays.
    """
    named = EncoderChoice(encoder, device, precision) if isinstance(encoder, str) else encoder
    loaded = named.load() if isinstance(named, EncoderChoice) else named
    row = getattr(loaded, "row", None)
    if row is not None and (line := contract_warning(row, spec)):
        warn(line)
    out = local_path(out)
    folder = features_path(out, loaded.name, "x").parent
    slides = _unique_slides(paths, names)
    workers = 1 if run_jobs is not None else _worker_count(num_workers, named, loaded, len(slides))
    tissue = tissue or TissueSpec()
    common = _common_settings(spec, tissue, exclude, loaded)
    readers = _reader_count(workers, loaded)
    every = SlideJob(0, "", folder, folder, spec, slide_mpp, tissue, common, batch_size, readers, exclude)
    jobs = _planned(slides, folder, every)
    with _only_writer(folder):
        finished = _finished(jobs, folder, common, overwrite)
        todo = [job for job in jobs if job.index not in finished]
        failures = FailureList(out / "failures.jsonl", loaded.name)
        run = CohortRun(jobs, failures, progress)
        for outcome in finished.values():
            run.end(outcome)
        if run_jobs is not None:
            run_jobs(todo, run)
        elif workers > 1 and len(todo) > 1 and isinstance(named, EncoderChoice):
            del loaded
            run_in_processes(todo, named, min(workers, len(todo)), run)
        else:
            for job in todo:
                run.end(run_job(job, loaded, partial(_tick_one, run, job.index)))
        failures.flush()
    return [run.outcomes[job.index] for job in jobs]


def _planned(slides: dict[str, Path], folder: Path, every: SlideJob) -> list[SlideJob]:
    """A job a slide: ``every`` with what is the slide's own."""
    jobs = []
    for index, (name, path) in enumerate(slides.items()):
        own = {"slide_mpp": mpp_of(every.slide_mpp, name), "slide_bytes": (state(path) or (None,))[0]}
        settings = {**every.settings, **own}
        target = folder / f"{name}.h5"
        jobs.append(
            replace(
                every, index=index, slide_id=name, slide=path, target=target, settings=settings,
                slide_mpp=mpp_of(every.slide_mpp, name),
            )
        )  # fmt: skip
    return jobs


def _unique_slides(paths: Paths, names: str) -> dict[str, Path]:
    if names not in ("auto", "stem", "folder"):
        raise ConfigError(f"names: got '{names}', expected 'auto', 'stem' or 'folder'")
    slides: dict[str, Path] = {}
    for path, name in slide_names([local_path(path) for path in as_paths(paths, "paths")], names).items():
        known = slides.setdefault(name, path)
        if known is not path and os.path.realpath(known) != os.path.realpath(path):
            advice = "pass --names folder to put the folder's name in front" if names == "stem" else "rename one"
            raise ConfigError(
                f"two slides are named '{name}': '{known}' and '{path}' would be written to one file; {advice}, or "
                "extract them into different --out folders"
            )
    return slides


def _worker_count(num_workers: int | None, named: EncoderChoice | Encoder, loaded: Encoder, slides: int) -> int:
    if num_workers is not None and num_workers < 0:
        raise ConfigError(f"num_workers: got {num_workers}, expected 0 or more")
    if not isinstance(named, EncoderChoice):
        return 1
    if num_workers is None and _on_gpu(loaded):
        num_workers = torch.cuda.device_count() if named.device in (None, "cuda") else 1
    return max(1, min(slides, _cores() if num_workers is None else num_workers))


def _reader_count(workers: int, loaded: Encoder) -> int:
    """Threads of each worker that read ahead: a GPU must not wait for tiles; without one, processes suffice."""
    if workers > 1 and not _on_gpu(loaded):
        return 0
    return max(1, min(4, _cores() // workers))


def _on_gpu(loaded: Encoder) -> bool:
    return bool(getattr(getattr(loaded, "device", None), "type", "cpu") != "cpu")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _common_settings(
    spec: TileSpec, tissue: TissueSpec, exclude: ArtefactSpec | None, encoder: Encoder
) -> dict[str, Any]:
    """Everything the rows of all feature files of a folder depend on."""
    return {
        "encoder": encoder.name,
        "encoder_revision": encoder.revision,
        "tile_px": spec.tile_px,
        "mpp": spec.mpp,
        "stride_px": spec.stride_px,
        "min_tissue": spec.min_tissue,
        "tissue": asdict(tissue),
        "exclude": None if exclude is None else asdict(exclude),
    }


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and clear away what a killed run left half-written.

    Raises:
        ConfigError: another run holds it.
        OutputError: the folder cannot be written to.
    """
    if as_url(folder):  # a store has no locks; what two runs put there is whole either way
        yield
        return
    with ExitStack() as held:
        try:
            locked = held.enter_context(only_writer(folder, "extraction"))
        except OSError as error:
            raise output_error(folder, error) from error
        if locked:  # without locks a file half-written may be another run's
            _clear_leftovers(folder)
        yield
        if locked:
            _clear_leftovers(folder)  # of workers that died


def _clear_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".*.tmp.*"):
        leftover.unlink(missing_ok=True)


def _finished(
    jobs: Sequence[SlideJob], folder: Path, common: dict[str, Any], overwrite: bool
) -> dict[int, ExtractOutcome]:
    """Jobs whose file is there, whole, and made with the same settings. Afterwards nothing of other settings is left.

    Raises:
        ConfigError: files made with other settings, and not ``overwrite``; or they are not of this run's slides.
    """
    _refuse_other_slides(jobs, folder, common)
    finished: dict[int, ExtractOutcome] = {}
    changed: list[tuple[SlideJob, str]] = []
    present = {normal_name(path.name) for path in list_folder(folder)}
    for job in jobs:
        outcome, difference = _earlier(job) if job.target.name in present else (None, "")
        if difference:
            changed.append((job, difference))
        elif outcome is not None and not overwrite:
            finished[job.index] = outcome
    if changed and not overwrite:
        job, difference = changed[0]
        raise ConfigError(
            f"{folder}: {len(changed)} feature files there were made with other settings (for example "
            f"'{job.target.name}': {difference}); pass --overwrite to replace them, or choose another --out"
        )
    try:
        for job, _ in changed:  # now, not one by one: a kill, or a slide that fails, must not leave both kinds
            remove(job.target)
            if (beside := job.target.with_suffix(".excluded.csv")).name in present:
                remove(beside)
        if url := as_url(folder / _SETTINGS):
            write_bytes(url, json.dumps(common).encode())
        else:
            write_json(folder / _SETTINGS, common)
    except OSError as error:
        raise output_error(folder, error) from error
    return finished


def _refuse_other_slides(jobs: Sequence[SlideJob], folder: Path, common: dict[str, Any]) -> None:
    """A folder holds one kind of features, also where two runs bring different slides to it."""
    try:
        if json.loads(read_bytes(folder / _SETTINGS)) == common:
            return
    except (OSError, ValueError):
        pass  # made before this file was kept, or torn: look at the files themselves
    ours = {job.target.name for job in jobs}
    for path in list_folder(folder):
        if path.suffix != ".h5" or path.name.startswith(".") or path.name in ours:
            continue
        try:
            settings = read_settings(path)
        except FeatureError:
            continue
        if settings is not None and (old := {key: settings.get(key) for key in common}) != common:
            raise ConfigError(
                f"{folder}: '{path.name}' there is of a slide not in this run and was made with other settings "
                f"({_differences(old, common)}); choose another --out, or delete that folder"
            )


def _earlier(job: SlideJob) -> tuple[ExtractOutcome | None, str]:
    """What an earlier run left for this job: its outcome if that still holds, or how its settings differ."""
    try:
        settings = read_settings(job.target)
        if settings is None:
            return None, "it was not made by pathflip extract"
        if settings != job.settings:
            return None, _differences(settings, job.settings)
        if as_url(job.target) is None:
            read_features(job.target)  # every byte, against its checksums; a store keeps its own
        tiles, invalid = read_counts(job.target)
    except FeatureError:
        return None, ""  # damaged: extract it again
    seen = ExtractOutcome(job.slide_id, job.slide, "skipped", job.target, tiles, invalid, 0.0, "finished earlier")
    return seen, ""


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys)


def _tick_one(run: CohortRun, index: int, done: int, total: int) -> None:
    run.tick({index: (done, total)})
