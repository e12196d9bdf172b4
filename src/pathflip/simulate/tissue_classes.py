"""Folders of real H&E images by tissue class: which class is which word of the case grammar, and whose tissue it is.

The names of four public collections are known (NCT-CRC-HE, Kather 2016, LC25000, GlaS), and so are the grammar's own.
Donors are split between training, validation and testing, never images of one donor.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathflip.errors import ConfigError
from pathflip.io.tables import read_table
from pathflip.simulate.world import FINDINGS, LABELS, SPLITS, TUMOUR_ONLY, TUMOUR_TYPES

__all__ = ["KNOWN_CLASSES", "TissueClass", "TissueImages", "find_tissue_images", "read_class_map", "split_donors"]

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LEFT_OUT = ""

KNOWN_CLASSES: Mapping[str, str] = {
    # NCT-CRC-HE (Kather et al. 2019, doi 10.5281/zenodo.1214456)
    "adi": "adipose_tissue", "back": "glass", "deb": "necrosis", "lym": "lymphoid_aggregates", "muc": "mucin_pools",
    "mus": "smooth_muscle", "norm": "normal_glands", "str": "fibrous_stroma", "tum": "adenocarcinoma",
    # Kather 2016 (doi 10.5281/zenodo.53169); complex stroma is a mixture that no word of the grammar names
    "tumor": "adenocarcinoma", "stroma": "fibrous_stroma", "complex": LEFT_OUT, "lympho": "lymphoid_aggregates",
    "debris": "necrosis", "mucosa": "normal_glands", "adipose": "adipose_tissue", "empty": "glass",
    # LC25000 (Borkowski et al. 2019, arXiv 1912.12142); normal lung has no word
    "colon_aca": "adenocarcinoma", "colon_n": "normal_glands", "lung_aca": "adenocarcinoma",
    "lung_scc": "squamous_cell_carcinoma", "lung_n": LEFT_OUT,
    # GlaS (Sirinukunwattana et al. 2017), its crops sorted by diagnosis
    "benign": "normal_glands", "malignant": "adenocarcinoma",
}  # fmt: skip
"""Folder name of a public collection -> a label of ``world.LABELS``, a tumour type, or empty: left out."""


@dataclass(frozen=True)
class TissueClass:
    """What images show: a label of ``world.LABELS``, and of the label ``tumour`` which type."""

    label: str
    tumour: str | None = None


@dataclass(frozen=True)
class TissueImages:
    """Images by class and donor.

    Attributes:
        images: class -> (file, donor), sorted.
        left_out: folders that no word of the grammar names.
        donors_known: whether donors were told (a column or a pattern); False: every image counts as its own donor.
    """

    images: Mapping[TissueClass, tuple[tuple[Path, str], ...]]
    left_out: tuple[str, ...]
    donors_known: bool

    @property
    def findings(self) -> tuple[str, ...]:
        """Findings that need no tumour, and those that do where there is one, in the grammar's order."""
        labels = {one.label for one in self.images}
        return tuple(name for name in FINDINGS if name in labels and (self.tumours or name not in TUMOUR_ONLY))

    @property
    def tumours(self) -> tuple[str, ...]:
        """Tumour types with images, in the grammar's order."""
        types = {one.tumour for one in self.images}
        return tuple(name for name in TUMOUR_TYPES if name in types)


def find_tissue_images(
    folder: str | Path,
    *,
    class_map: Mapping[str, str] | None = None,
    donor_pattern: str | None = None,
    donors: str | Path | None = None,
) -> TissueImages:
    """Every image below ``folder``, by the class that its own folder's name says.

    Args:
        folder: with a sub-folder a class, at any depth.
        class_map: folder name -> a label of ``world.LABELS`` or a tumour type, before the known names; empty leaves a
            folder out.
        donor_pattern: a regular expression with one group, searched in a file's path below ``folder``: its donor.
        donors: a CSV file with the columns image (its path below ``folder``, or its name) and donor.

    Raises:
        ConfigError: no images, a class that is not known, a pattern or table that misses an image.
    """
    root = Path(folder).expanduser()
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())
    if not files:
        raise ConfigError(f"'{root}': no image; expected a sub-folder a tissue class, with {', '.join(IMAGES)} files")
    donor_of = _donors(root, files, donor_pattern, donors)
    images: dict[TissueClass, list[tuple[Path, str]]] = defaultdict(list)
    left_out: set[str] = set()
    for file in files:
        name = file.parent.name if file.parent != root else ""
        one = _class_of(name, class_map or {}, root)
        if one is None:
            left_out.add(name)
        else:
            images[one].append((file, donor_of[file]))
    return TissueImages(
        {one: tuple(images[one]) for one in sorted(images, key=str)},
        tuple(sorted(left_out)),
        donor_pattern is not None or donors is not None,
    )


def _class_of(name: str, class_map: Mapping[str, str], root: Path) -> TissueClass | None:
    """The class of a folder; None where it is left out."""
    if not name:
        raise ConfigError(f"'{root}': images lie in it and in no sub-folder; expected a sub-folder a tissue class")
    plain = re.sub(r"^[\d\W_]+", "", name.casefold().strip())
    plain = re.sub(r"[\s-]+", "_", plain)
    word = class_map[name] if name in class_map else KNOWN_CLASSES.get(plain, plain)
    if word == LEFT_OUT:
        return None
    if word in TUMOUR_TYPES:
        return TissueClass("tumour", word)
    if word in LABELS and word not in ("tumour", "artefact"):
        return TissueClass(word)
    wanted = ", ".join([*(label for label in LABELS if label not in ("tumour", "artefact")), *TUMOUR_TYPES])
    raise ConfigError(
        f"'{root}': folder '{name}' is no known tissue class; name it after one of {wanted}, or give --class-map with "
        "the columns folder, label (an empty label leaves it out)"
    )


def read_class_map(table: str | Path) -> dict[str, str]:
    """A CSV file with the columns folder, label, as :func:`find_tissue_images` takes it.

    Raises:
        ConfigError: other columns.
    """
    return {row["folder"]: row["label"] for row in _rows(table, "folder", "label")}


def _rows(table: str | Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a table with these columns, without spaces around their values."""
    rows = [
        {str(k).strip().casefold(): str(v or "").strip() for k, v in row.items()} for row in read_table(Path(table))
    ]
    if not rows or not set(columns) <= set(rows[0]):
        raise ConfigError(f"'{table}': expected a table with the columns {', '.join(columns)}")
    return rows


def _donors(root: Path, files: Sequence[Path], pattern: str | None, table: str | Path | None) -> dict[Path, str]:
    if pattern is not None and table is not None:
        raise ConfigError("mosaic: give --donor-pattern or --donors, not both")
    names = {file: file.relative_to(root).as_posix() for file in files}
    if table is not None:
        return _donors_of_table(Path(table), names)
    if pattern is None:
        return names
    try:
        donor_match = {file: re.search(pattern, name) for file, name in names.items()}
    except re.error as error:
        raise ConfigError(f"--donor-pattern '{pattern}': {error}") from None
    missed = [name for file, name in names.items() if donor_match[file] is None or not donor_match[file].groups()]  # type: ignore[union-attr]
    if missed:
        raise ConfigError(
            f"--donor-pattern '{pattern}': finds no donor in {len(missed)} of {len(names)} images (first "
            f"'{missed[0]}'); expected a regular expression with one group, for example '^[^/]+/([^_]+)_'"
        )
    return {file: match.group(1) for file, match in donor_match.items() if match is not None}


def _donors_of_table(table: Path, names: Mapping[Path, str]) -> dict[Path, str]:
    donor_of = {row["image"]: row["donor"] for row in _rows(table, "image", "donor")}
    out = {file: donor_of.get(name) or donor_of.get(file.name) or "" for file, name in names.items()}
    missed = [names[file] for file, donor in out.items() if not donor]
    if missed:
        raise ConfigError(f"'{table}': names no donor for {len(missed)} images (first '{missed[0]}')")
    return out


def split_donors(images: TissueImages, rng: np.random.Generator, tries: int = 2000) -> dict[str, str]:
    """Donor -> "train", "val" or "test", about 60 / 15 / 25 of a hundred, so that every class has images in each.

    Raises:
        ConfigError: no such division: a class has too few donors.
    """
    of_class = {one: {donor for _, donor in pairs} for one, pairs in images.images.items()}
    fewest = min(of_class, key=lambda one: len(of_class[one]))
    donors = sorted({donor for own in of_class.values() for donor in own})
    if len(of_class[fewest]) >= len(SPLITS):
        for _ in range(tries):
            order = [donors[i] for i in rng.permutation(len(donors))]
            num_test, num_val = max(1, round(0.25 * len(order))), max(1, round(0.15 * len(order)))
            parts = (order[num_test + num_val :], order[num_test : num_test + num_val], order[:num_test])
            split_of = {donor: split for split, part in zip(SPLITS, parts, strict=True) for donor in part}
            if all({split_of[donor] for donor in own} == set(SPLITS) for own in of_class.values()):
                return split_of
    name = fewest.tumour or fewest.label
    raise ConfigError(
        f"mosaic: class '{name}' has images of {len(of_class[fewest])} donors; every class needs its own in training, "
        "validation and testing: expected more donors, or fewer classes (--class-map with an empty label)"
    )
