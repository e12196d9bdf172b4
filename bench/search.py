"""How fast an archive of a million slides answers, and how exactly, against brute force, FAISS and a plain scan.

    python bench/search.py [--quick] [--slides N] [--folder DIR] [--json]

Synthetic slides: 2,000 kinds of tissue of Zipf-like frequency, patients of three slides that lie close together, and
noise; 64 random int8 patches a slide, so that bytes on disk and reading are those of a real archive. A query is a
slide's vector with as much noise again. One run makes the archive in a scratch folder, removed afterwards, and measures
the first stage (the best thousand), its R@10 of the exact ten, the second stage cold (the files dropped from the
system's cache, the archive opened anew), the first stage of texts (vectors twice as wide, ranked by a product), memory
of a process that only searches, bytes on disk.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

WIDTH, KINDS, PATCHES, CANDIDATES = 128, 2000, 64, 1000
NOISE = 0.06
BATCH = 20_000


def made_vectors(slides: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors, (slides, WIDTH) float32."""
    kinds = unit(rng.standard_normal((KINDS, WIDTH), np.float32))
    vectors = np.empty((slides, WIDTH), np.float32)
    for start in range(0, slides, BATCH):
        count = min(BATCH, slides - start)
        patients = -(-count // 3)
        middles = kinds[rng.zipf(1.3, patients) % KINDS] + NOISE * rng.standard_normal((patients, WIDTH), np.float32)
        own = middles[np.arange(count) // 3] + NOISE / 2 * rng.standard_normal((count, WIDTH), np.float32)
        vectors[start : start + count] = unit(own)
    return vectors


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def fill(folder: Path, vectors: np.ndarray, texts: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Write the archive and its index; seconds of both."""
    import pyarrow as pa

    from pathflip.archive.vector_tables import (
        INDEX_FROM,
        TABLE,
        Archive,
        ArchiveModel,
        _write_settings,
        connect,
        make_index,
        schema_of,
    )

    _write_settings(Archive(folder, ArchiveModel("0" * 32, "none", WIDTH, {}), PATCHES))
    schema, begin = schema_of(WIDTH), time.perf_counter()
    table = connect(folder).create_table(TABLE, schema=schema)
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        count = len(part)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), WIDTH)
        names = pa.array([f"slide-{row:07d}" for row in range(start, start + count)])
        columns: dict[str, Any] = {"slide_id": names, "case_id": names, "patient": names, "file": names}
        columns |= {"vector": flat, "patch_vector": flat}
        both = np.concatenate([part, texts[start : start + count]], 1)
        columns["text_vector"] = pa.FixedSizeListArray.from_arrays(pa.array(both.ravel()), 2 * WIDTH)
        columns["patches"] = blobs(rng.integers(-127, 128, (count, PATCHES * WIDTH), np.int8))
        columns["scales"] = blobs(np.full((count, PATCHES), 0.001, "<f4"))
        columns["weights"] = blobs(rng.integers(1, 400, (count, PATCHES)).astype("<i4"))
        columns["boxes"] = blobs(rng.integers(1, 90_000, (count, 4 * PATCHES)).astype("<i4"))
        arrays = [columns.get(f.name, pa.nulls(count, f.type)) for f in schema]
        table.add(pa.table(arrays, schema=schema))
    written = time.perf_counter()
    if len(vectors) >= INDEX_FROM:
        for column in ("vector", "text_vector"):
            make_index(table, column, len(vectors))
    return {"write_s": written - begin, "index_s": time.perf_counter() - written}


def blobs(values: np.ndarray) -> Any:
    """Rows of an array as an Arrow column of bytes."""
    import pyarrow as pa

    size = values.shape[1] * values.itemsize
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(size)
    return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def forget(folder: Path) -> None:
    """Drop the archive's files from the system's cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def coefficients(slides: int, rng: np.random.Generator) -> np.ndarray:
    """What stands for slides' answers to texts: clustered as their vectors are, with a common part."""
    return made_vectors(slides, rng) + unit(rng.standard_normal((1, WIDTH), np.float32))


def searched(folder: Path, queries: np.ndarray, exact: np.ndarray, texts: Any, pipe: Any) -> None:
    """Measure searching in a process of its own: its memory is that of a search."""
    import torch

    from pathflip.archive import Searcher, open_archive
    from pathflip.models import build_model
    from pathflip.types import TextCode

    torch.manual_seed(0)
    net = build_model({"kind": "pathflip", "feature_dim": 8, "vocab_size": 50, "embed_dim": WIDTH}).eval()
    sub_captions = torch.randn(3, WIDTH)
    code = TextCode(("a", "b", "c"), sub_captions, sub_captions, torch.zeros(3, dtype=torch.bool))
    forget(folder)
    searcher = Searcher(open_archive(folder))
    searcher.model = SimpleNamespace(net=net, device=torch.device("cpu"))  # type: ignore[assignment]
    begin = time.perf_counter()
    row_ids, _ = searcher.archive.nearest("vector", queries[0], CANDIDATES)
    first = time.perf_counter()
    slides = searcher.load(row_ids)
    searcher._parts(slides, code, code)
    row: dict[str, float] = {"first_query_cold_s": first - begin, "rerank_s": time.perf_counter() - first}
    seconds, hits = [], []
    for query, best in zip(queries, exact, strict=True):
        begin = time.perf_counter()
        row_ids, _ = searcher.archive.nearest("vector", query, CANDIDATES)
        seconds.append(time.perf_counter() - begin)
        names = searcher.archive.take(row_ids[:10], ["slide_id"])["slide_id"].to_pylist()
        hits.append(len({int(name[6:]) for name in names} & set(best.tolist())) / len(best))
    row |= {"ms_median": 1e3 * float(np.median(seconds)), "ms_p95": 1e3 * float(np.percentile(seconds, 95))}
    row["recall_at_10"] = float(np.mean(hits))
    row |= by_texts(searcher, *texts)
    seconds = []
    for query in queries[:20]:
        whole = TextCode(("q",), torch.from_numpy(query[None]), torch.from_numpy(query[None]), code.negated[:1])
        begin = time.perf_counter()
        searcher.by_codes(whole, code, 20)
        seconds.append(time.perf_counter() - begin)
    row["both_stages_s"] = float(np.median(seconds))
    row["search_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    pipe.send(row)


def by_texts(searcher: Any, directions: np.ndarray, exact: np.ndarray, some: np.ndarray) -> dict[str, float]:
    """The first stage of texts: milliseconds and R@10 of the rows with the largest product with a direction."""

    seconds, hits = [], []
    for direction, best in zip(directions, exact, strict=True):
        begin = time.perf_counter()
        row_ids = searcher.archive.farthest("text_vector", direction, some, CANDIDATES)
        seconds.append(time.perf_counter() - begin)
        names = searcher.archive.take(row_ids[:10], ["slide_id"])["slide_id"].to_pylist()
        hits.append(len({int(name[6:]) for name in names} & set(best.tolist())) / len(best))
    return {"text_ms_median": 1e3 * float(np.median(seconds)), "text_recall_at_10": float(np.mean(hits))}


def timed(search: Any, queries: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Median milliseconds a query and R@10 of ``search(query) -> rows, best first``."""
    seconds, hits = [], []
    for query, best in zip(queries, exact, strict=True):
        begin = time.perf_counter()
        rows = search(query)
        seconds.append(time.perf_counter() - begin)
        hits.append(len(set(rows[:10]) & set(best.tolist())) / len(best))
    return {"ms_median": 1e3 * float(np.median(seconds)), "recall_at_10": float(np.mean(hits))}


def others(folder: Path, vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray) -> dict[str, dict[str, float]]:
    """Numpy brute force, FAISS exact and IVF, and a plain LanceDB query, all for the best thousand."""
    import faiss

    from pathflip.archive.vector_tables import NUM_PROBES, TABLE, connect

    def brute(query: np.ndarray) -> list[int]:
        scores = vectors @ query
        best = np.argpartition(-scores, CANDIDATES)[:CANDIDATES]
        return [int(row) for row in best[np.argsort(-scores[best])]]

    table = connect(folder).open_table(TABLE)

    def plain(query: np.ndarray) -> list[int]:
        names = table.search(query, vector_column_name="vector").bypass_vector_index().limit(CANDIDATES)
        return [int(name[6:]) for name in names.select(["slide_id", "_distance"]).to_arrow()["slide_id"].to_pylist()]

    rows = {"numpy": timed(brute, queries[:10], exact[:10]), "plain_lancedb": timed(plain, queries[:5], exact[:5])}
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors)
    rows["faiss_flat"] = timed(
        lambda q, flat=flat: flat.search(q[None], CANDIDATES)[1][0].tolist(), queries[:10], exact[:10]
    )
    del flat
    partitions = round(len(vectors) ** 0.5)
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, partitions, faiss.METRIC_INNER_PRODUCT)
    begin = time.perf_counter()
    ivf.train(vectors[:: max(1, len(vectors) // 100_000)])
    ivf.add(vectors)
    build = time.perf_counter() - begin
    ivf.nprobe = min(NUM_PROBES, partitions)
    rows["faiss_ivf"] = timed(lambda q: ivf.search(q[None], CANDIDATES)[1][0].tolist(), queries, exact)
    rows["faiss_ivf"]["build_s"] = build
    return rows


def run(slides: int, folder: Path) -> dict[str, Any]:
    """Everything, in one folder."""
    rng = np.random.default_rng(0)
    vectors = made_vectors(slides, rng)
    noise = NOISE * rng.standard_normal((100, WIDTH), np.float32)
    queries = unit(vectors[rng.choice(slides, 100, replace=False)] + noise).astype(np.float32)
    exact = np.stack([np.argsort(-(vectors @ query), kind="stable")[:10] for query in queries])
    texts = coefficients(slides, rng)
    rows = rng.choice(slides, 100, replace=False)
    towards = np.concatenate([vectors[rows], texts[rows] - texts[:512].mean(0)], 1)
    directions = unit(towards + 2 * NOISE * rng.standard_normal(towards.shape, np.float32)).astype(np.float32)
    products = (vectors @ direction[:WIDTH] + texts @ direction[WIDTH:] for direction in directions)
    best = np.stack([np.argsort(-product, kind="stable")[:10] for product in products])
    some = np.concatenate([vectors[:512], texts[:512]], 1)
    row: dict[str, Any] = {"slides": slides, **fill(folder, vectors, texts, rng)}
    del texts
    print(f"written {row['write_s']:.0f} s, index {row['index_s']:.0f} s", flush=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=searched, args=(folder, queries, exact, (directions, best, some), theirs))
    process.start()
    theirs.close()
    row |= ours.recv()
    process.join()
    row["gb_on_disk"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
    row["others"] = others(folder, vectors, queries, exact)
    return row


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 slides")
    parser.add_argument("--slides", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where to make the scratch folder")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    slides = options.slides or (100_000 if options.quick else 1_000_000)
    scratch = Path(tempfile.mkdtemp(prefix="pathflip-search-", dir=options.folder))
    try:
        row = run(slides, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(
        f"{slides:,} slides: first stage {row['ms_median']:.1f} ms (95 %: {row['ms_p95']:.1f}), R@10 "
        f"{row['recall_at_10']:.3f}; second stage cold {row['rerank_s']:.2f} s; both warm "
        f"{row['both_stages_s']:.2f} s; {row['gb_on_disk']:.2f} GB on disk, {row['search_memory_gb']:.2f} GB of memory"
    )
    print(f"  first stage of texts {row['text_ms_median']:.1f} ms, R@10 {row['text_recall_at_10']:.3f}")
    for name, other in row["others"].items():
        ratio = other["ms_median"] / row["ms_median"]
        print(f"  {name:<14} {other['ms_median']:8.1f} ms ({ratio:5.1f} × ours)  R@10 {other['recall_at_10']:.3f}")
    if options.json:
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))


if __name__ == "__main__":
    main()
