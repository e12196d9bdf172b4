"""Embeddings of a cohort as tables that other tools read: Parquet, ``.npy`` with a CSV beside it, AnnData ``.h5ad``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pathflip.errors import ConfigError, FeatureError, MissingExtraError, PathFLIPError
from pathflip.features import read_features
from pathflip.inference.aligned import Aligned
from pathflip.inference.encoding import EncodedCase, EncodedSlide, encode_case, encode_slide
from pathflip.io.files import atomic_path
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import read_table
from pathflip.io.write_tables import write_table
from pathflip.types import SlideFeatures

__all__ = [
    "EMBEDDING_SUFFIXES",
    "Embeddings",
    "embed_cohort",
    "embed_slide",
    "pooled",
    "read_embeddings",
    "write_embeddings",
]

EMBEDDING_SUFFIXES = (".parquet", ".npy", ".h5ad")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors with what each is of: ``about`` holds a column a name, a value a row."""

    vectors: Float[np.ndarray, "n E"]
    about: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        """Rows."""
        return len(self.vectors)


def embed_slide(model: Aligned, features: SlideFeatures) -> Float[np.ndarray, " E"]:
    """The embedding of one slide as a vector of floats: what ``embed`` writes a row of.

    Raises:
        ContractError: features of another kind than the model's. FeatureError: no tile could be read.
    """
    return _slide_row(encode_slide(model, features))[0][0]


def embed_cohort(
    model: Aligned,
    files: Mapping[str, Path] | Mapping[str, Path | Sequence[Path]],
    *,
    patches: bool = False,
    failures: list[dict[str, Any]] | None = None,
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> Embeddings:
    """The embedding of every slide, or of every valid patch.

    Args:
        model: the alignment model. files: feature file of each slide, or those of each case.
        patches: a row a patch, with its level-0 corner and the slide it is of, instead of a row a slide. Of a case
            there is always one row, that of the patches of all its slides.
        failures: slides that cannot be read become rows of it; None raises.

    Raises:
        FeatureError: no slide can be read. ContractError: features of another kind than the model's.
    """
    vectors: list[np.ndarray] = []
    about: dict[str, list[Any]] = {}
    for done, (slide, file) in enumerate(files.items(), start=1):
        try:
            if not isinstance(file, Path):
                own, rows = _case_row(encode_case(model, [read_features(one) for one in file], slide))
            elif patches:
                own, rows = _patch_rows(encode_slide(model, read_features(file)))
            else:
                own, rows = _slide_row(encode_slide(model, read_features(file)))
        except PathFLIPError as error:
            if failures is None:
                raise
            failures.append({"slide_id": slide, "error": str(error)})
            continue
        vectors.append(own)
        for name, values in rows.items():
            about.setdefault(name, []).extend(values)
        progress(done, len(files), slide)
    if not vectors:
        first = f": {failures[0]['error']}" if failures else ""
        raise FeatureError(f"embed: none of {len(files)} slides can be read{first}")
    return Embeddings(np.concatenate(vectors).astype(np.float32), about)


def _slide_row(encoded: EncodedSlide) -> tuple[np.ndarray, dict[str, list[Any]]]:
    vector = encoded.code.slide.float().cpu().numpy()
    return vector, {"slide": [encoded.slide_id], "patches": [int((encoded.row_of_tile >= 0).sum())]}


def _case_row(encoded: EncodedCase) -> tuple[np.ndarray, dict[str, list[Any]]]:
    slides = encoded.slides
    return encoded.code.slide.float().cpu().numpy(), {
        "case": [encoded.slide_id],
        "slides": [", ".join(one.slide_id for one in slides)],
        "patches": [sum(int((one.row_of_tile >= 0).sum()) for one in slides)],
    }


def _patch_rows(encoded: EncodedSlide) -> tuple[np.ndarray, dict[str, list[Any]]]:
    tiles = np.flatnonzero(encoded.row_of_tile >= 0)
    vectors = encoded.code.patches[0].float().cpu().numpy()[encoded.row_of_tile[tiles]]
    coords = encoded.grid.coords[tiles]
    return vectors, {
        "slide": [encoded.slide_id] * len(tiles),
        "x": coords[:, 0].tolist(),
        "y": coords[:, 1].tolist(),
        "side": [int(encoded.grid.tile_px0)] * len(tiles),
    }


def pooled(embeddings: Embeddings, group_of: Mapping[str, str], name: str = "patient") -> Embeddings:
    """The mean over the slides of each group (its patient, its case), of unit length where the slides' are.

    Args:
        embeddings: a row a slide. group_of: the group of every slide. name: of the group's column.

    Raises:
        ConfigError: a slide without a group.
    """
    slides = list(embeddings.about["slide"])
    if lost := [slide for slide in slides if slide not in group_of]:
        raise ConfigError(f"embed: slide '{lost[0]}' has no {name}; expected one for each")
    groups = list(dict.fromkeys(group_of[slide] for slide in slides))
    own = [[row for row, slide in enumerate(slides) if group_of[slide] == group] for group in groups]
    means = np.stack([embeddings.vectors[rows].mean(0) for rows in own])
    lengths = np.linalg.norm(embeddings.vectors, axis=1)
    if np.allclose(lengths, 1, atol=1e-3):
        means = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    members = [", ".join(slides[row] for row in rows) for rows in own]
    return Embeddings(means.astype(np.float32), {name: groups, "slides": members})


def write_embeddings(path: Path, embeddings: Embeddings, *, note: str = "") -> list[str]:
    """Write embeddings; the ending decides the kind. Returns the files written.

    Raises:
        ConfigError: another ending. MissingExtraError: Parquet without pyarrow, or ``.h5ad`` without anndata.
    """
    kind = path.suffix.lower()
    if kind not in EMBEDDING_SUFFIXES:
        raise ConfigError(f"embed: --out is '{path}', expected a name that ends in {', '.join(EMBEDDING_SUFFIXES)}")
    if kind == ".parquet":
        rows = _rows(embeddings)
        write_table(path, [row | {"embedding": v.tolist()} for row, v in zip(rows, embeddings.vectors, strict=True)])
        return [str(path)]
    if kind == ".npy":
        with atomic_path(path) as temporary:
            np.save(temporary, embeddings.vectors, allow_pickle=False)
        write_table(path.with_suffix(".csv"), _rows(embeddings))
        return [str(path), str(path.with_suffix(".csv"))]
    _write_anndata(path, embeddings, note)
    return [str(path)]


def read_embeddings(path: Path) -> Embeddings:
    """Slide embeddings that :func:`write_embeddings` wrote, or another tool in the same form.

    A column ``slide`` (or ``slide_id``) names the slides: of the Parquet table, whose vectors stand in ``embedding``;
    of the ``.csv`` beside the ``.npy``; of ``obs`` of the ``.h5ad`` (or its index).

    Raises:
        ConfigError: another ending. FeatureError: the file cannot be read, a slide stands twice, or a number is not
            finite. MissingExtraError: Parquet without pyarrow, or ``.h5ad`` without anndata.
    """
    kind = path.suffix.lower()
    if kind not in EMBEDDING_SUFFIXES:
        raise ConfigError(f"'{path}': expected embeddings in a file that ends in {', '.join(EMBEDDING_SUFFIXES)}")
    if not path.is_file():
        raise ConfigError(f"'{path}': no such file; check the path")
    try:
        vectors, names = {".parquet": _read_parquet, ".npy": _read_npy, ".h5ad": _read_anndata}[kind](path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureError(
            f"'{path}': holds no slide embeddings ({error}); expected what  pathflip embed  writes"
        ) from None
    if vectors.ndim != 2 or len(vectors) != len(names) or not len(names):
        raise FeatureError(f"'{path}': {vectors.shape} numbers for {len(names)} slides; expected a row a slide")
    slides = [slide_id(name) for name in names]
    if len(set(slides)) < len(slides):
        twice = next(name for name in slides if slides.count(name) > 1)
        raise FeatureError(f"'{path}': slide '{twice}' stands there twice; expected slide embeddings, a row a slide")
    if not np.isfinite(vectors).all():
        bad = slides[int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])]
        raise FeatureError(f"'{path}': the embedding of '{bad}' is not finite; expected numbers")
    return Embeddings(vectors.astype(np.float32), {"slide": slides})


def _slide_column(columns: Sequence[str]) -> str:
    name = next((one for one in columns if one.lower() in ("slide", "slide_id")), None)
    if name is None:
        raise KeyError(f"no column slide; got {', '.join(map(str, columns))}")
    return name


def _read_parquet(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables", "reading Parquet") from None
    table = pyarrow.parquet.read_table(path)
    names = table[_slide_column(table.column_names)].to_pylist()
    return np.array(table["embedding"].to_pylist(), dtype=np.float64), [str(name) for name in names]


def _read_npy(path: Path) -> tuple[np.ndarray, list[str]]:
    rows = read_table(path.with_suffix(".csv"), expected="the table beside the embeddings, with the column slide")
    column = _slide_column(list(rows[0]))
    return np.asarray(np.load(path, allow_pickle=False), np.float64), [str(row[column]) for row in rows]


def _read_anndata(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        import anndata
    except ImportError:
        raise MissingExtraError("anndata", "tables", "reading .h5ad") from None
    data = anndata.read_h5ad(path)
    dense = data.X.toarray() if hasattr(data.X, "toarray") else data.X
    named = [one for one in data.obs.columns if one.lower() in ("slide", "slide_id")]
    names = data.obs[named[0]] if named else data.obs_names
    return np.asarray(dense, np.float64), [str(name) for name in names]


def _rows(embeddings: Embeddings) -> list[dict[str, Any]]:
    names = list(embeddings.about)
    return [dict(zip(names, values, strict=True)) for values in zip(*embeddings.about.values(), strict=True)]


def _write_anndata(path: Path, embeddings: Embeddings, note: str) -> None:
    """AnnData: X is the embeddings, obs what they are of; patches have their corners in ``obsm["spatial"]``."""
    try:
        import anndata
        import pandas
    except ImportError:
        raise MissingExtraError("anndata", "tables", "writing .h5ad") from None
    about = pandas.DataFrame(dict(embeddings.about))
    is_patch = "x" in about
    about.index = (
        pandas.Index([f"{s}:{x}:{y}" for s, x, y in zip(about["slide"], about["x"], about["y"], strict=True)])
        if is_patch
        else pandas.Index(about.iloc[:, 0].astype(str))
    )
    about.index.name = None
    names = pandas.DataFrame(index=[f"e{i}" for i in range(embeddings.vectors.shape[1])])
    data = anndata.AnnData(X=embeddings.vectors, obs=about, var=names)
    if is_patch:
        data.obsm["spatial"] = about[["x", "y"]].to_numpy()
    data.uns["pathflip"] = {"note": note}
    with atomic_path(path) as temporary:
        data.write_h5ad(temporary)
