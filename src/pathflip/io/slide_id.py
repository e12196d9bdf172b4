"""Slide ids: the one rule from a file name or a table cell to the name that joins slides, features, reports and splits.

``slide_id`` makes the id; ``join_ids`` matches the names of a table with the ids of files; ``check_name`` refuses
names from inside files that could lead out of a folder or disturb a terminal.
"""

import ast
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pathflip.arguments import Paths, as_paths
from pathflip.errors import CaptionError, FeatureError

__all__ = ["check_name", "folder_of", "join_ids", "normal_name", "paths_by_id", "slide_id", "slide_names_in"]

_SLIDE_SUFFIXES = frozenset(
    """.svs .ndpi .ndpis .mrxs .scn .bif .vms .vmu .svslide .czi .vsi .dcm .dicom .tif .tiff .btf .tf2 .tf8 .ome
    .qptiff .isyntax .i2syntax .kfb .sdpc .tmap .mds .mdsx .lif .nd2 .zvi .ets .zarr .png .jpg .jpeg .jp2 .j2k .jxl
    .webp .bmp""".split()  # noqa: SIM905
)
"""Endings of slide files and pictures; ``.ome`` stands before ``.tif`` or ``.zarr``."""
_OTHER_SUFFIXES = frozenset(
    ".h5 .hdf5 .hdf .pt .pth .npy .npz .safetensors .csv .tsv .txt .json .jsonl .ndjson .geojson".split()  # noqa: SIM905
)
"""Endings of what is made of a slide: features, outlines, reports."""
_SUFFIXES = _SLIDE_SUFFIXES | _OTHER_SUFFIXES
_MAX_BYTES = 250
"""File systems end names at 255 bytes, endings such as ``.h5`` included."""
_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_UUID_SUFFIX = re.compile(rf"\.{_UUID}$")
_TCGA = re.compile(r"^TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?:-[A-Z0-9]+)*$")
_SHOWN = 4

T = TypeVar("T")


def slide_id(value: Any) -> str:
    """The id of the slide that a path, a URL or a table cell names: its last part without endings, in Unicode NFC.

    ``slides/a.ome.tif``, ``C:\\scans\\a.svs``, ``s3://bucket/a.h5`` and ``a`` all give ``a``. Only endings of known
    file kinds are taken off, one after the other; any other dot belongs to the name (``e.v2.svs`` gives ``e.v2``, and
    a TCGA name keeps its UUID). Applied to its own result it changes nothing.

    Raises:
        CaptionError: the value names no slide: empty, or neither text nor a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, str | Path | int | float):
        raise CaptionError(f"the slide is {_short(value)}, expected its name or path")
    if isinstance(value, float):
        if not value.is_integer():
            raise CaptionError(f"the slide is {value}, expected its name or path")
        value = int(value)
    name = normal_name(_last_part(str(value).strip()))
    while True:
        name = name.strip()
        stem, dot, ending = name.rpartition(".")
        if not stem.strip(" .") or f"{dot}{ending}".lower() not in _SUFFIXES:
            break
        name = stem
    if not name.strip(" ."):
        raise CaptionError(f"no slide named (got {_short(value)}); expected its name or path")
    return name


def _last_part(text: str) -> str:
    if re.match(r"https?://", text, re.IGNORECASE):
        text = unquote(urlsplit(text).path)
    elif re.match(r"file:/", text, re.IGNORECASE):
        text = unquote(text)
    parts_of_path = [part for part in re.split(r"[\\/]+", text) if part.strip()]
    return parts_of_path[-1] if parts_of_path else ""


def folder_of(value: Any) -> str:
    """The name of the folder that a path in a table cell lies in; "" where it names none."""
    parts_of_path = [part for part in re.split(r"[\\/]+", str(value).strip()) if part.strip()]
    return normal_name(parts_of_path[-2].strip()) if len(parts_of_path) > 1 else ""


def slide_names_in(value: Any) -> list[Any]:
    """The slides that one table cell names: a list, a list written as JSON or Python, or names set apart by bars,
    semicolons, line ends or commas.

    A comma or semicolon sets names apart where all of them have the ending of a file, or none has and none holds a
    space: "Smith, left.svs" is one slide. Names set apart by spaces alone must all have endings.
    """
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if text[:1] == "[" and text[-1:] == "]":
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [value]
        return listed if isinstance(listed, list) else [value]
    for separator in (r"[|\r\n]+", r";", r",", r"\s+"):
        names = [name.strip() for name in re.split(separator, text) if name.strip()]
        if len(names) < 2:
            continue
        with_ending = [Path(name).suffix.lower() in _SUFFIXES for name in names]
        bare = not any(with_ending) and not any(re.search(r"\s", name) for name in names)
        if all(with_ending) or (bare and separator != r"\s+") or separator == r"[|\r\n]+":
            return names
    return [value]


def normal_name(name: str) -> str:
    """A file name as it is compared and written: composed Unicode (NFC; macOS hands out decomposed names, NFD).

    Bytes that are no UTF-8 are written as URLs write them (``caf%E9``).
    """
    clean = "".join(
        f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else "\ufffd" if "\ud800" <= c <= "\udfff" else c
        for c in name
    )
    return unicodedata.normalize("NFC", clean)


def check_name(name: str, what: str, where: str | Path) -> str:
    """The name, if a file may be named after it.

    Names from inside feature files, tables and answers choose where results are written, so they must be one plain
    part of a path.

    Args:
        name: to check. what: it is the name of ("slide_id", "encoder"). where: file it stands in, for the message.

    Raises:
        FeatureError: it is empty, ``.`` or ``..``, begins with a dot, is longer than 250 bytes, or holds a separator,
            a drive letter or a control character.
    """
    if problem := _problem(name):
        raise FeatureError(
            f"{where}: its {what} {_short(name)} {problem}; expected a plain name, since files are named after it"
        )
    return name


def _problem(name: str) -> str:
    if not name.strip():
        return "is empty"
    if name.startswith("."):
        return "begins with a dot"
    if re.search(r"[\\/]", name) or re.match(r"[A-Za-z]:", name):
        return "holds a path"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _BIDI for c in name):
        return "holds control characters"
    length = len(name.encode("utf-8"))
    return f"has {length} bytes, at most {_MAX_BYTES} are allowed" if length > _MAX_BYTES else ""


_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the reading direction: a name shows as another one."""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]


def paths_by_id(paths: Paths) -> dict[str, Path]:
    """Files by slide id.

    Raises:
        CaptionError: two files of one slide (both named).
    """
    by_id: dict[str, Path] = {}
    for path in as_paths(paths, "files"):
        other = by_id.setdefault(slide_id(path), path)
        if other is not path and other != path:
            raise CaptionError(
                f"'{other}' and '{path}' are both of slide '{slide_id(path)}'; expected one file a slide: leave one out"
            )
    return by_id


def join_ids(names: Iterable[str], ids: Iterable[str]) -> dict[str, str]:
    """Which id each name means; names that mean none are left out.

    A name means the id that equals it. Where none does, a name and an id that differ only by a UUID at the end
    (``….UUID``, as archives append it) are the same slide, and a TCGA barcode means the one id that begins with it.

    Args:
        names: slide ids from a table. ids: slide ids of files.

    Raises:
        CaptionError: a name fits several ids (all named), or two names mean one id.
    """
    known, names = set(ids), list(dict.fromkeys(names))
    joined = {name: name for name in names if name in known}
    rest = [name for name in names if name not in known]
    if rest:
        ordered = sorted(known)
        bare = _grouped((_UUID_SUFFIX.sub("", one), one) for one in ordered)
        prefixes = _grouped((prefix, one) for one in ordered for prefix in _barcode_prefixes(one))
        for name in rest:
            if match := _only(name, _candidates(name, bare, prefixes)):
                joined[name] = match
    owner: dict[str, str] = {}
    for name, one in joined.items():
        if (other := owner.setdefault(one, name)) != name:
            raise CaptionError(f"'{other}' and '{name}' both mean slide '{one}'; expected one name a slide")
    return joined


def _candidates(name: str, bare: Mapping[str, list[str]], prefixes: Mapping[str, list[str]]) -> list[str]:
    if _UUID_SUFFIX.search(name):  # the id without it; never an id with another UUID
        short = _UUID_SUFFIX.sub("", name)
        return [one for one in bare.get(short, []) if one == short]
    return bare.get(name) or (prefixes.get(name, []) if _TCGA.match(name) else [])


def _only(name: str, candidates: list[str]) -> str | None:
    if len(candidates) > 1:
        listed = ", ".join(f"'{one}'" for one in candidates[:_SHOWN])
        more = f" and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
        raise CaptionError(f"'{name}' fits {len(candidates)} slides ({listed}{more}); expected the full name of one")
    return candidates[0] if candidates else None


def _barcode_prefixes(one: str) -> list[str]:
    """The TCGA barcodes an id begins with: patient, sample, …, each up to a dash or dot."""
    if not one.startswith("TCGA-"):
        return []
    return [one[: m.start()] for m in re.finditer(r"[-.]", one) if _TCGA.match(one[: m.start()])]


def _grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
