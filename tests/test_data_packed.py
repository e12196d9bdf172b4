"""The training store: the same batches as from feature files, by the row; and what happens when things go wrong."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from feature_grids import make_features, neighbour_means, scattered_cells
from pathflip.data.align import AlignDataset, TextSpec
from pathflip.data.packed import PackedStore, open_store, pack_features, packing
from pathflip.data.packed.slide_file import read_packed_header
from pathflip.data.regions import RegionSpec
from pathflip.data.whole_files import WholeFiles
from pathflip.errors import ConfigError, FeatureError, OutputError
from pathflip.features import read_features, write_features
from pathflip.io import byte_ranges
from pathflip.io.byte_ranges import RowRequest, read_rows
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.text.tokenizer import train_tokenizer
from pathflip.train.batches import BatchSampler
from pathflip.types import Caption

WORDS = "Necrosis is seen."


def write(path, seed=0, num=60, scale=1.0, encoder="test", dim=5, cells=None):
    rng = np.random.default_rng(seed)
    features = make_features(scattered_cells(rng, num) if cells is None else cells, dim=dim, seed=seed, invalid=(1, 7))
    order = rng.permutation(len(features.valid))  # a file's order is not the reading order
    features = replace(
        features,
        features=features.features[order] * np.float32(scale),
        coords=features.coords[order],
        valid=features.valid[order],
        slide_id=path.stem,
        info=replace(features.info, slide_id=path.stem),
        encoder=encoder,
    )
    write_features(path, features)
    return path


@pytest.fixture
def files(tmp_path):
    (tmp_path / "features").mkdir()
    out = [write(tmp_path / "features" / f"s{i}.h5", seed=i, num=40 + 30 * i) for i in range(3)]
    twice = np.array([(0, 0), (0, 0), (1, 0), (0, 1), (1, 1), (5, 5), (6, 5), (6, 6), (6, 6), (9, 9)])
    slide = make_features(twice, seed=9, invalid=(3,))  # two tiles on one cell, as grids cut contour by contour have
    coords = slide.coords + np.array([[0, 0], [9, 3]] * 5)
    slide = replace(slide, coords=coords, slide_id="twice", info=replace(slide.info, slide_id="twice"))
    write_features(tmp_path / "features" / "twice.h5", slide)
    return [*out, tmp_path / "features" / "twice.h5"]


def batches(files, reader, **words):
    captions = [Caption(file.stem, f"p-{file.stem}", WORDS, (parse_sub_caption(WORDS),)) for file in files]
    return AlignDataset(
        files, captions, train_tokenizer([WORDS], 80), text=TextSpec(num_sub_captions=1), reader=reader, **words
    )


def same(first, second) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(vars(first).values(), vars(second).values(), strict=True)
    )


@pytest.mark.parametrize("context", [True, False], ids=["means stored", "means computed"])
@pytest.mark.parametrize("kind", ["patches", "regions", "file order", "no context"])
def test_batches_of_a_float32_store_are_those_of_the_files_to_the_bit(files, tmp_path, context, kind):
    pack_features(files, tmp_path / "store", dtype="float32", context=context)
    spec = {"regions": RegionSpec(side=2), "file order": RegionSpec(side=2, order="file")}.get(kind)
    words = {"max_patches": 9, "context": kind != "no context"}
    if spec is not None:
        words = {"regions": True, "max_regions": 2}
    plain = batches(files, WholeFiles(regions=spec), **words)
    packed = batches(files, open_store(tmp_path / "store", files, spec), **words)
    for seed in range(6):
        items = np.random.default_rng(seed).permutation(4)[:3].tolist()
        first, second = (data.batch(items, np.random.default_rng(seed)) for data in (plain, packed))
        assert same(first, second)
    for file in files:
        a, b = plain.reader.sums(file), packed.reader.sums(file)
        assert a.count == b.count
        assert np.array_equal(a.total, b.total)
        assert np.array_equal(a.squares, b.squares)


@pytest.mark.parametrize("context", [True, False])
def test_a_float16_store_rounds_and_changes_nothing_else(files, tmp_path, context):
    pack_features(files, tmp_path / "store", context=context)
    plain = batches(files, WholeFiles()).batch([0, 1, 2, 3], np.random.default_rng(0))
    packed = batches(files, open_store(tmp_path / "store", files)).batch([0, 1, 2, 3], np.random.default_rng(0))
    assert torch.equal(packed.patches, plain.patches.half().float())
    torch.testing.assert_close(packed.context, plain.context, rtol=1e-3, atol=1e-3)
    assert not torch.equal(packed.context, plain.context)
    assert same(replace(packed, patches=plain.patches, context=plain.context), plain)


def test_a_packed_slide_is_a_safetensors_file_of_what_it_says(files, tmp_path):
    [outcome, *_] = pack_features(files[:1], tmp_path / "store", dtype="float32")
    tensors, features = load_file(outcome.path), read_features(files[0])
    rows = tensors["file_row"][:, 0]
    assert outcome.rows == len(rows) == int(features.valid.sum())
    assert features.valid[rows].all()
    assert np.array_equal(tensors["patches"][:, 0], features.features[rows])
    assert np.array_equal(tensors["patches"][:, 1], neighbour_means(features)[rows])
    assert np.array_equal(tensors["coords"], features.coords[rows])
    cells = features.grid.cells()[rows]
    for place, others in enumerate(tensors["neighbours"]):
        near = (np.abs(cells - cells[place]).max(axis=1) <= 1).nonzero()[0]
        assert sorted(others[others >= 0]) == near.tolist()


def test_places_may_come_in_any_order_and_twice(files, tmp_path):
    pack_features(files, tmp_path / "store", dtype="float32")
    readers = WholeFiles(), open_store(tmp_path / "store", files)
    wanted = [(files[1], np.array([5, 2, 2, 9])), (files[0], np.array([0])), (files[1], np.array([3, 1]))]
    for a, b in zip(*(reader.read(wanted, True) for reader in readers), strict=True):
        assert np.array_equal(a.features, b.features)
        assert np.array_equal(a.context, b.context)
        assert np.array_equal(a.position, b.position)


def test_processes_read_the_slides_of_their_share_only(files, tmp_path):
    pack_features(files, tmp_path / "store")
    seen: list[set[Path]] = []

    class Watched(PackedStore):
        def read(self, wanted, context):
            seen[-1].update(file for file, _ in wanted)
            return super().read(wanted, context)

    reader = Watched(open_store(tmp_path / "store", files).slides)
    data, sampler = batches(files, reader, max_patches=4), BatchSampler(4, 4, 0)
    parts = []
    for rank in range(2):
        seen.append(set())
        parts.append(data.batch(sampler.share(0, rank, 2), np.random.default_rng(1)))
    seen.append(set())
    whole = data.batch(sampler.share(0, 0, 1), np.random.default_rng(1))
    assert seen[0].isdisjoint(seen[1])
    assert len(seen[0]) == len(seen[1]) == 2
    assert torch.equal(torch.cat([part.patches for part in parts]), whole.patches)


def test_a_step_reads_little_of_a_large_slide(tmp_path, monkeypatch):
    cells = np.stack(np.meshgrid(np.arange(100), np.arange(100)), -1).reshape(-1, 2)
    file = write(tmp_path / "large.h5", cells=cells, dim=256)
    read: list[int] = []
    original = byte_ranges._fill
    monkeypatch.setattr(
        byte_ranges, "_fill", lambda plan, handle: (read.append(plan.buffer.size), original(plan, handle))[1]
    )
    for context, most in ((True, 0.06), (False, 0.35)):
        pack_features([file], tmp_path / f"store{context}", context=context)
        store = open_store(tmp_path / f"store{context}", [file])
        read.clear()
        store.read([(file, np.arange(50, 9000, 90))], True)
        assert 0 < sum(read) < most * store.slides[file].path.stat().st_size


# ------------------------------------------------------------------------------------------ packing again


def statuses(outcomes):
    return [one.status for one in outcomes]


def test_only_what_changed_is_packed_again(files, tmp_path):
    store = tmp_path / "store"
    assert statuses(pack_features(files, store)) == ["done"] * 4
    assert statuses(pack_features(files, store)) == ["skipped"] * 4
    write(files[1], seed=11)
    with pytest.raises(FeatureError, match=r"1 of 4 feature files were changed since, or never packed \(s1\)"):
        open_store(store, files)
    before = open_store(store, files[:1])
    assert statuses(pack_features(files, store)) == ["skipped", "done", "skipped", "skipped"]
    assert len(list(store.glob("*.safetensors"))) == 4  # the older one is gone
    plain = WholeFiles().read([(files[1], np.arange(5))], False)[0].features
    packed = open_store(store, files).read([(files[1], np.arange(5))], False)[0].features
    np.testing.assert_allclose(packed, plain, rtol=1e-3)
    assert before.count(files[0]) == open_store(store, files).count(files[0])


def test_copied_feature_files_are_recognised_by_their_bytes(files, tmp_path, monkeypatch):
    store = tmp_path / "store"
    pack_features(files, store)
    for file in files:
        os.utime(file, ns=(5, 5))
    assert statuses(pack_features(files, store)) == ["skipped"] * 4
    monkeypatch.setattr("pathflip.data.packed.packed_store.sha256_of", lambda file: pytest.fail("read again"))
    open_store(store, files)  # and what was found out is remembered


def test_a_file_of_the_same_size_with_other_bytes_is_packed_again(files, tmp_path):
    pack_features(files, tmp_path / "store")
    size = files[0].stat().st_size
    write(files[0], seed=0, num=40, scale=2.0)
    assert files[0].stat().st_size == size
    assert statuses(pack_features(files, tmp_path / "store"))[0] == "done"


def test_a_slide_replaced_under_a_running_training_is_an_error_not_other_rows(files, tmp_path):
    pack_features(files, tmp_path / "store")
    reader = open_store(tmp_path / "store", files)
    write(files[0], seed=5, num=50)
    pack_features(files, tmp_path / "store")
    with pytest.raises(FeatureError, match=r"s0-.*cannot be read any more .*run the same command again"):
        reader.read([(files[0], np.arange(3))], True)


# ------------------------------------------------------------------------------------------ bad input


def test_another_encoder_another_number_format_another_version(files, tmp_path):
    store = tmp_path / "store"
    pack_features(files, store, context=False)
    other = write(tmp_path / "o.h5", encoder="other")
    with pytest.raises(ConfigError, match=r"another encoder \(test.*got other"):
        pack_features([other], store)
    with pytest.raises(ConfigError, match="holds float16, got float32"):
        pack_features(files, store, dtype="float32")
    with pytest.raises(ConfigError, match="without neighbourhood means"):
        pack_features(files, store, context=True)
    settings = store / "store.json"
    text = settings.read_text()
    for wrong in (text.replace('"1.0"', '"2.0"'), text.replace("pathflip-packed", "else"), text[:40], "[]", "7"):
        settings.write_text(wrong)
        for do in (lambda: pack_features(files, store), lambda: open_store(store, files)):
            with pytest.raises(ConfigError, match=r"no training store of this version .*choose another folder"):
                do()
    assert len(list(store.glob("*.safetensors"))) == 4
    with pytest.raises(ConfigError, match="is no training store; make it with  pathflip pack"):
        open_store(tmp_path / "nowhere", files)


def test_a_bad_feature_file_fails_alone(files, tmp_path):
    files[1].write_bytes(files[1].read_bytes()[:3000])
    (tmp_path / "gone.h5").touch()
    outcomes = pack_features([*files, tmp_path / "gone.h5"], tmp_path / "store")
    assert sorted((one.slide_id, one.status) for one in outcomes) == [
        ("gone", "failed"), ("s0", "done"), ("s1", "failed"), ("s2", "done"), ("twice", "done"),
    ]  # fmt: skip
    assert all("\n" not in one.message and one.message for one in outcomes if one.status == "failed")


def test_what_float16_cannot_hold_is_refused_and_what_it_blurs_is_told(tmp_path):
    large = write(tmp_path / "large.h5", scale=1e5)
    [outcome] = pack_features([large], tmp_path / "a")
    assert outcome.status == "failed"
    assert "float16 holds values up to 65504" in outcome.message
    assert statuses(pack_features([large], tmp_path / "b", dtype="float32")) == ["done"]
    slide = read_features(large)
    shifted = slide.features / 1e5
    shifted[:, 3] = 1000 + 0.1 * shifted[:, 3]
    write_features(tmp_path / "far.h5", replace(slide, features=shifted, slide_id="far"))
    with pytest.warns(UserWarning, match=r"float16 rounds 1 of 5 features .*worst: feature 3"):
        pack_features([tmp_path / "far.h5"], tmp_path / "c")


def damaged_at(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:-10])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "header":
        path.write_bytes(data[:8] + b"{" * 200 + data[208:])
    elif how == "length":
        path.write_bytes(b"\xff" * 8 + data[8:])
    elif how == "offsets":
        path.write_bytes(data.replace(b'"coords": {"dtype": "I64"', b'"coords": {"dtype": "I32"'))
    elif how == "version":
        path.write_bytes(data.replace(b'"format_version": "1.0", "slide_id"', b'"format_version": "3.0", "slide_id"'))


@pytest.mark.parametrize("how", ["cut", "empty", "header", "length", "offsets", "version"])
def test_a_torn_packed_slide_is_packed_again(files, tmp_path, how):
    first = pack_features(files, tmp_path / "store")
    path = first[0].path
    good = path.read_bytes()
    damaged_at(path, how)
    assert path.read_bytes() != good
    with pytest.raises(FeatureError, match=r"s0-.*no packed slide"):
        read_packed_header(path)
    with pytest.raises(FeatureError, match=r"never packed \(s0\)"):
        open_store(tmp_path / "store", files)
    assert statuses(pack_features(files, tmp_path / "store")) == ["done", "skipped", "skipped", "skipped"]
    assert path.read_bytes() == good


def test_a_slide_cut_while_training_reads_it_is_one_line(files, tmp_path):
    [outcome, *_] = pack_features(files, tmp_path / "store")
    reader = open_store(tmp_path / "store", files)
    os.truncate(outcome.path, 4100)
    with pytest.raises(FeatureError, match="it ends too early"):
        reader.read([(files[0], np.arange(3))], True)


def test_a_full_disk_stops_packing_and_loses_nothing(files, tmp_path, monkeypatch):
    store = tmp_path / "store"
    pack_features(files[:2], store)

    def full(handle, *rest):
        handle.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(packing, "write_packed", full)
        with pytest.raises(OutputError, match=r"No space left.*run the same command"):
            pack_features(files, store)
    assert sorted(path.suffix for path in store.iterdir() if path.name[0] != ".") == [
        ".json", ".safetensors", ".safetensors",
    ]  # fmt: skip
    assert not list(store.glob(".*.tmp*"))
    assert statuses(pack_features(files, store)) == ["skipped", "skipped", "done", "done"]


def test_a_folder_that_cannot_be_written_to(files, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        pack_features(files, tmp_path / "file")


KILLED = """
import os, signal, sys
from pathlib import Path
from pathflip.data.packed import packing
original = packing.write_packed
def slow(handle, features, *rest):
    if features.slide_id == "s1":
        handle.write(b"half"); handle.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    original(handle, features, *rest)
packing.write_packed = slow
packing.pack_features(sorted(Path(sys.argv[1]).glob("*.h5")), sys.argv[2], num_threads=1)
"""


def test_packing_goes_on_after_a_kill(files, tmp_path):
    store = tmp_path / "store"
    done = subprocess.run([sys.executable, "-c", KILLED, str(files[0].parent), str(store)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert list(store.glob(".*.tmp.*"))
    written = {path.name: path.stat().st_mtime_ns for path in store.glob("[!.]*.safetensors")}
    assert len(written) == 1
    assert statuses(pack_features(files, store)) == ["skipped", "done", "done", "done"]
    assert not list(store.glob(".*.tmp.*"))
    for name, changed in written.items():
        assert (store / name).stat().st_mtime_ns == changed


def test_who_comes_second_waits_and_finds_all_done(files, tmp_path):
    code = "import sys; from pathlib import Path; from pathflip.data.packed import pack_features; "
    code += "print([o.status for o in pack_features(sorted(Path(sys.argv[1]).glob('*.h5')), sys.argv[2])])"
    command = [sys.executable, "-c", code, str(files[0].parent), str(tmp_path / "store")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert printed == [str(["done"] * 4), str(["skipped"] * 4)]


# ------------------------------------------------------------------------------------------ object stores, reading


def test_the_same_from_an_object_store(files, tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    url = f"memory://pack-{time.time_ns()}"
    for file in files:
        fs.pipe_file(f"{url}/features/{file.name}", file.read_bytes())
    remote = [Path(f"{url}/features/{file.name}") for file in files]
    pack_features(files, tmp_path / "store", dtype="float32", context=False)
    assert statuses(pack_features(remote, f"{url}/store", dtype="float32", context=False)) == ["done"] * 4
    assert statuses(pack_features(remote, f"{url}/store")) == ["skipped"] * 4
    here, there = open_store(tmp_path / "store", files), open_store(f"{url}/store", remote)
    places = [np.arange(0, 12, 3), np.array([1, 2]), np.array([0]), np.array([4])]
    own = here.read(list(zip(files, places, strict=True)), True)
    for a, b in zip(own, there.read(list(zip(remote, places, strict=True)), True), strict=True):
        assert np.array_equal(a.features, b.features)
        assert np.array_equal(a.context, b.context)
    fs.rm(str(there.slides[remote[0]].path).replace("memory:/", "memory://"))
    with pytest.raises(FeatureError, match="cannot be read any more"):
        there.read([(remote[0], np.arange(2))], True)


@pytest.mark.parametrize("row_bytes", [1, 7, 4096, 9000])
def test_scattered_rows_are_the_rows(tmp_path, rng, row_bytes):
    data = rng.integers(0, 256, (500, row_bytes), dtype=np.uint8)
    path = tmp_path / "x.bin"
    path.write_bytes(b"head" + data.tobytes())
    for count in (0, 1, 20, 500):
        rows = np.sort(rng.choice(500, count, replace=False)).astype(np.int64)
        [got] = read_rows([RowRequest(path, 4, row_bytes, rows)])
        assert np.array_equal(got, data[rows])
    with pytest.raises(FeatureError, match="it ends too early"):
        read_rows([RowRequest(path, 4, row_bytes, np.array([500]))])
