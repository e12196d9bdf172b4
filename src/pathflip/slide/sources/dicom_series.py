"""Which DICOM files are one slide: the instances of a series, a level each, or a part of one (a concatenation)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathflip.errors import SlideError

__all__ = ["Instance", "dicom_slides", "file_of_folder", "file_of_list", "instance_of"]

_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns", "TotalPixelMatrixRows"]
_TAGS += ["ConcatenationFrameOffsetNumber"]
_EXTENSIONS = (".dcm", ".dicom", ".dic", "")
"""Archives write instances with these, or with none."""


@dataclass(frozen=True)
class Instance:
    """One file of a DICOM slide.

    Attributes:
        path: the file.
        series: the SeriesInstanceUID.
        kind: "VOLUME" for levels; "LABEL", "OVERVIEW", "THUMBNAIL" for what is none.
        width: of its level, pixels.
        first_frame: frames of the level in the parts before this one.
    """

    path: Path
    series: str
    kind: str
    width: int
    first_frame: int


def instance_of(path: Path) -> Instance | None:
    """What a DICOM slide file says about itself; None for any other file."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with open(path, "rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            file.seek(0)
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        if header.get("SOPClassUID") != _SLIDE_CLASS:
            return None
        kinds = list(header.get("ImageType") or ())
        return Instance(
            path=path,
            series=str(header.get("SeriesInstanceUID", "")),
            kind=str(kinds[2]) if len(kinds) > 2 else "",
            width=int(header.get("TotalPixelMatrixColumns") or 0),
            first_frame=int(header.get("ConcatenationFrameOffsetNumber") or 0),
        )
    except (OSError, InvalidDicomError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError):
        return None


def file_of_folder(folder: Path) -> Path:
    """The file to open for the one DICOM slide in a folder: the first part of its finest level.

    Raises:
        SlideError: there is none, or more than one.
    """
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _EXTENSIONS and p.is_file())
    except OSError as error:
        raise SlideError(f"slide '{folder}': this folder cannot be read: {error.strerror or error}") from None
    return _only_one(folder, [i for i in map(instance_of, files) if i is not None])


def file_of_list(files: Sequence[Path]) -> Path:
    """The file to open for the slide whose files are given.

    Raises:
        SlideError: they are not the files of one DICOM series in one folder.
    """
    if not files:
        raise SlideError("slide: got an empty list of files, expected the files of one DICOM series")
    instances = []
    for path in files:
        instance = instance_of(path)
        if instance is None and len(files) > 1:
            raise SlideError(
                f"slide '{path}': got a list of files, expected those of one DICOM slide, which this file is no part of"
            )
        instances += [instance] if instance else []
    folders = sorted({str(path.absolute().parent) for path in files})
    if len(folders) > 1:
        raise SlideError(
            f"slide '{files[0]}': its files lie in several folders ({', '.join(folders)}); put them in one"
        )
    return _only_one(files[0], instances) if len(files) > 1 else files[0]


def _only_one(where: Path, instances: Sequence[Instance]) -> Path:
    series = levels_by_series(instances)
    if len(series) != 1:
        kinds = f"{len(series)} DICOM slides" if series else "no DICOM slide"
        raise SlideError(
            f"slide '{where}': got a folder or list that holds {kinds}, expected a slide file, or the files of one "
            "DICOM series; pass the slide files inside it"
        )
    return main_file(next(iter(series.values())))


def levels_by_series(instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    """The levels of each slide; labels, overviews and thumbnails are left out."""
    series: dict[str, list[Instance]] = {}
    for instance in instances:
        if instance.kind == "VOLUME":
            series.setdefault(instance.series, []).append(instance)
    return series


def main_file(levels: Sequence[Instance]) -> Path:
    """The first part of the finest level."""
    return min(levels, key=lambda i: (-i.width, i.first_frame, i.path.name)).path


def dicom_slides(files: Sequence[Path]) -> list[Path]:
    """Files of a folder with every DICOM series in it as one: its folder, where that holds nothing else; else a file.

    Args:
        files: slide files of one folder, and files that may be DICOM.
    """
    instances = {path: instance_of(path) for path in files if path.suffix.lower() in _EXTENSIONS}
    others = [path for path in files if instances.get(path) is None and path.suffix]
    series = levels_by_series(i for i in instances.values() if i is not None)
    if not any(instances.values()):
        return others
    alone = len(series) == 1 and not others and len(next(iter(series.values()))) > 1
    if alone:
        return [files[0].parent]
    return sorted([*others, *(main_file(levels) for levels in series.values())])
