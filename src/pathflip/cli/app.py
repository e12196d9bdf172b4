"""What every verb shares: the application, option types, reading paths, printing rows, progress.

``--json`` prints one object a line on standard output and nothing else there; messages and progress go to standard
error. Exit status: 0 all done, 1 something failed (the rest was done), 2 wrong usage.
"""

import json as json_module
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pathflip.errors import ConfigError, PathFLIPError
from pathflip.processes import counted_notes, keep_memory, printable, warnings_are_notes

__all__ = [
    "MPP",
    "AllowMissing",
    "CaseColumn",
    "Cases",
    "Device",
    "Encoding",
    "Features",
    "Json",
    "MinTissue",
    "Model",
    "Out",
    "PartColumn",
    "QuestionColumn",
    "Recursive",
    "ReportColumn",
    "SlideColumn",
    "SlideMPP",
    "Slides",
    "StridePx",
    "TableOut",
    "TilePx",
    "TrainDevice",
    "app",
    "as_row",
    "check_table",
    "encoded_items",
    "files_in",
    "finish",
    "main",
    "numbers_line",
    "print_rows",
    "printable",
    "progress_bar",
    "say",
    "training_device",
    "write_rows",
]


class _StoppedError(Exception):
    """Ctrl-C, with what was kept: typer would end the process itself and say nothing of it."""


class _Verbs(TyperGroup):
    """The verbs; Ctrl-C in one of them reaches :func:`main`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _StoppedError(str(error)) from error


app = typer.Typer(
    cls=_Verbs,
    name="pathflip",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Whole slides and words: simulate, tile, extract, train, evaluate, classify, retrieve, ground. "
    "Research software, not a medical device.",
)


def _print_version(value: bool) -> bool:
    if value:
        from pathflip import __version__

        print(f"pathflip {__version__}")
        raise typer.Exit
    return value


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and stop.")
    ] = False,
) -> None:
    """Whole slides and words: simulate, tile, extract, train, evaluate, classify, retrieve, ground.

    Research software, not a medical device.
    """


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
Slides = Annotated[
    list[Path], typer.Argument(help="Slide files, or folders of them; a DICOM folder is one slide.", show_default=False)
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Look into the folders inside folders too.")]


def _slide_mpp(value: str) -> Any:
    from pathflip.slide.resolution_table import read_slide_mpp

    return read_slide_mpp(value)


SlideMPP = Annotated[
    Any,
    typer.Option(
        parser=_slide_mpp,
        metavar="MPP|FILE",
        help="The slides' own resolution (µm per level-0 pixel), where files do not say; or a table slide, mpp.",
    ),
]
TilePx = Annotated[int, typer.Option(help="Side of a tile, pixels at --mpp.")]
MPP = Annotated[float, typer.Option(help="Resolution to tile at, µm per pixel.")]
StridePx = Annotated[int, typer.Option(help="Step between tiles, pixels at --mpp; 0 means --tile-px.")]
MinTissue = Annotated[float, typer.Option(help="Smallest fraction of a tile that must be tissue.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Model = Annotated[Path, typer.Option(help="Checkpoint directory, for example runs/base/last.")]
Features = Annotated[list[Path], typer.Option("--features", help="Feature files, or folders of them.")]
SlideColumn = Annotated[str | None, typer.Option(help="Column with the slide, where its name is not a usual one.")]
ReportColumn = Annotated[str | None, typer.Option("--text-column", help="Column with the report's text.")]
PartColumn = Annotated[str | None, typer.Option(help="Column with the part of the case a slide is of.")]
QuestionColumn = Annotated[str | None, typer.Option("--text-column", help="Column with the question.")]
TableOut = Annotated[Path | None, typer.Option("--out", help="Table to write: .csv, .tsv, .jsonl, .json, .parquet.")]
Device = Annotated[
    str | None, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1, …; a GPU if there is one.")
]
TrainDevice = Annotated[
    str | None, typer.Option("--device", help="Where to train: cpu, cuda, cuda:1, …; a GPU if there is one.")
]
CaseColumn = Annotated[str | None, typer.Option(help="Column with the case: rows of one case and report are one item.")]
AllowMissing = Annotated[
    bool, typer.Option(help="Pass over captions without features, and features without captions; both are counted.")
]
Cases = Annotated[
    str | None,
    typer.Option(
        help="Take cases, not slides: a table with case and slide (such as --captions), or the word 'folders': the "
        "files of one folder, and those called CASE__NAME, are one case."
    ),
]
Encoding = Annotated[str | None, typer.Option(help="Of the table: cp1252, utf-16, shift_jis, …; found out if absent.")]


def main() -> None:
    """Run the command line; errors PathFLIP raises on purpose become one line and exit status 1."""
    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes that are no text
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    warnings_are_notes()
    keep_memory()  # the process is ours, and what it frees it will need again
    try:
        app()
    except PathFLIPError as error:
        say(f"pathflip: {' '.join(str(error).split())}")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except (_StoppedError, KeyboardInterrupt) as error:
        print(printable(f"pathflip: stopped. {how_to_go_on(str(error), sys.argv[1:])}"), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a disk that is full, a folder that may not be written to, a share that went away
        where = f"'{error.filename}': " if error.filename else ""
        say(f"pathflip: {where}{error.strerror or error}; make room, or check the path and its permissions")
        sys.exit(1)
    finally:
        for line in counted_notes():
            print(printable(f"note: {line}"), file=sys.stderr)


def how_to_go_on(reason: str, words: Sequence[str]) -> str:
    """What to tell somebody who pressed Ctrl-C: what was kept, and the command that goes on from there."""
    verb = words[0] if words else ""
    if verb == "train" and "state is saved" in reason:
        again = [*words, *(() if "--resume" in words else ("--resume",))]
        return f"{reason}. Go on with:  {shlex.join(['pathflip', *again])}"
    if verb == "train":
        return f"{reason} Nothing was trained yet; the same command starts again.".strip()
    if verb in ("extract", "demo", "pack"):
        return f"{reason} What is whole is kept; the same command goes on from there.".strip()
    return reason


def say(text: str) -> None:
    """A message for people: standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def print_rows(rows: Sequence[Mapping[str, Any]], json: bool, line: Callable[[Mapping[str, Any]], str]) -> None:
    """Rows on standard output: JSON, or what ``line`` makes of each."""
    for row in rows:
        print(printable(json_module.dumps(row, ensure_ascii=False) if json else line(row)), flush=True)


def write_rows(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table (CSV, TSV, JSON lines, JSON, Parquet); what failed is in it, too."""
    from pathflip.io.write_tables import write_table

    write_table(out, rows, ("slide_id",))
    say(f"{len(rows)} rows → {out}")


def check_table(out: Path | None, verb: str) -> None:
    """Refuse a name to write to that is no table, or cannot be written, before work is done."""
    from pathflip.io.files import check_target
    from pathflip.io.write_tables import TABLE_SUFFIXES, is_table

    if out is None:
        return
    if not is_table(out):
        raise ConfigError(f"{verb}: --out is '{out}', expected a name that ends in {', '.join(TABLE_SUFFIXES)}")
    check_target(out)


_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".html", ".yaml")
_SLIDES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".dcm")
_OTHER_TOOLS = (".pt", ".npy", ".h5ad", ".zarr")
_NO_FEATURES = {
    **dict.fromkeys(_TABLES, ""),
    **dict.fromkeys(_SLIDES, "; make them with  pathflip extract"),
    **dict.fromkeys(_OTHER_TOOLS, "; bring them in with  pathflip convert"),
}
"""Endings of files that hold no features, and what to do about them."""


def files_in(paths: Sequence[Path], suffixes: set[str]) -> list[Path]:
    """Files as given, folders as the files in them (sorted, not recursive).

    Of features also the folder above theirs: a TRIDENT job, a CLAM or STAMP parent, what ``extract --out`` wrote.

    Raises:
        ConfigError: no such path, an empty folder, or one in which all features are other tools'.
    """
    from pathflip.io.storage import as_url, list_folder, local_path

    files: list[Path] = []
    for path in map(local_path, paths):
        if path.suffix.lower() not in suffixes and (as_url(path) or os.path.isdir(path)):
            try:
                inside = [p for p in list_folder(path) if p.suffix.lower() in suffixes and p.name[0] != "."]
            except OSError as error:
                raise ConfigError(f"'{path}': this folder cannot be read: {error.strerror or error}") from None
            if suffixes == {".h5"} and not as_url(path):
                inside = _features_in(path, inside)
            if not inside:
                raise ConfigError(f"'{path}': no {'/'.join(sorted(suffixes)[:4])}… file in this folder")
            files += inside
        elif path.suffix.lower() not in suffixes and not as_url(path) and not os.path.lexists(path):
            raise ConfigError(f"'{path}': no such file or folder; check the path")
        elif suffixes == {".h5"} and path.suffix.lower() in _NO_FEATURES:
            raise ConfigError(
                f"'{path}': a '{path.suffix.lower()}' file, expected feature files (.h5) or a folder of them"
                f"{_NO_FEATURES[path.suffix.lower()]}"
            )
        else:
            files.append(path)
    return files


def _features_in(folder: Path, inside: list[Path]) -> list[Path]:
    """The feature files in a folder, or in the one of its folders that holds features."""
    from pathflip.interop.conversion import all_foreign, feature_files_below

    files = inside or feature_files_below(folder)
    if tool := all_foreign(files):
        raise ConfigError(
            f"'{folder}': its {len(files)} files are not PathFLIP's ({tool}: {files[0].name}); convert them once:  "
            f"pathflip convert {shlex.quote(str(folder))} --slides SLIDES --to pathflip --out DIR   and give DIR here"
        )
    return files


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """A progress bar with rate and time left; yields ``advance(done, total, note="")``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=console, refresh_per_second=4)
    task = progress.add_task(title, total=None, note="")

    def advance(done: float, total: float, note: str = "") -> None:
        progress.start()  # on the first step only: a refusal before it stays a single line
        progress.update(task, completed=done, total=total, note=printable(note))

    try:
        yield advance
    finally:
        if progress.live.is_started:  # stopping what never started prints an empty line
            progress.stop()


def finish(rows: Sequence[Any], json: bool, line: Callable[[Mapping[str, Any]], str]) -> None:
    """Print outcomes (errors too), each caution once, and leave with status 1 if any failed."""
    plain = [row if isinstance(row, dict) else as_row(row) for row in rows]

    def either(row: Mapping[str, Any]) -> str:
        text = f"{row['slide_id']}: FAILED {row.get('message') or row['error']}" if row.get("error") else line(row)
        return text + "".join(f"\n  note: {warning}" for warning in row.get("warnings") or ())

    print_rows(plain, json, either)
    for caution in [] if json else dict.fromkeys(row["caution"] for row in plain if row.get("caution")):
        say(caution)
    if any(row.get("error") for row in plain):
        raise typer.Exit(1)


def unknown_words(model: Any, text: str) -> list[str]:
    """The warning that a text holds no word of the model's training texts, where that is so."""
    from pathflip.text.known_words import UNKNOWN_WORDS

    return [UNKNOWN_WORDS] if model.knows_no_word_of(text) else []


def training_device(device: str | None) -> list[str]:
    """Settings that train on the device named.

    Raises:
        ConfigError: no such device, or one of several processes that each take their own.
    """
    if device is None:
        return []
    from pathflip.features.devices import take_device

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"--device {device}: every process of a distributed run takes its own GPU; expected none")
    kind = take_device(device)
    return [] if kind == "cuda" else [f"train.device={kind}"]


def as_row(outcome: Any) -> dict[str, Any]:
    """A dataclass as JSON can hold it."""
    from dataclasses import asdict

    from pathflip.io.storage import shown

    return {key: shown(value) if isinstance(value, Path) else value for key, value in asdict(outcome).items()}


def encoded_items(
    model: Any,
    features: Sequence[Path],
    failures: list[dict[str, Any]],
    cases: str | None = None,
    whole: Collection[str] | None = None,
) -> Iterator[Any]:
    """Encode slides, or the cases they belong to, one by one; a bad file becomes a row of ``failures``, the rest goes
    on. ``cases``: see :data:`Cases`; a slide of no case is scored alone. ``whole``: see :func:`files_of_items`.
    """
    from pathflip.inference import encode_files

    for name, files in files_of_items(files_in(features, {".h5"}), cases, whole):
        try:
            encoded = encode_files(model, files, name)
        except PathFLIPError as error:
            failures.append({"slide_id": name, "error": str(error)})
            continue
        yield encoded


def files_of_items(
    files: list[Path], cases: str | None, whole: Collection[str] | None = None
) -> list[tuple[str, tuple[Path, ...]]]:
    """The files of every slide or case, and its name.

    Args:
        files: of features. cases: see :data:`Cases`.
        whole: cases that stay one item though their slides are of several parts; the others are an item a part
            (``CASE__A``), as in training and evaluation. None: all stay whole.
    """
    if cases is None:
        return [(file.stem, (file,)) for file in files]
    from pathflip.data.case_items import by_part, cases_of_folders, join_reports
    from pathflip.text.case_tables import read_cases

    known = cases_of_folders(files) if cases == "folders" else read_cases(Path(cases))
    joined = join_reports(files, known)
    if not joined.items:
        raise ConfigError(f"--cases '{cases}' names none of the slides given; expected columns case and slide")
    for names, what in (
        (joined.incomplete, "cases lack features of a slide"),
        (joined.lonely_files, "slides are of no case"),
    ):
        if names:
            say(f"note: {len(names)} {what} ({', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''})")
    if joined.lonely_captions:
        say(f"note: {len(joined.lonely_captions)} cases have no features among those given")
    items = joined.items
    if whole is not None:
        kept = set(whole)
        items = [one for item in items for one in ([item] if item.name in kept else by_part([item]))]
        if len(items) > len(joined.items):
            say(f"note: {len(joined.items)} cases are {len(items)} items, one a part (CASE__A)")
    return [*((item.name, item.files) for item in items), *((n, (f,)) for n, f in joined.lonely_files.items())]


def numbers_line(row: Mapping[str, Any]) -> str:
    """A row as names and numbers."""
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )
