"""Nothing is lost, whatever happens to a cohort run: every row of the table in docs/robustness.md."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cohort_run import logged_rows, run_cohort, start, tissue_picture, write_slide
from pathflip.errors import ConfigError, OutputError, PathFLIPError
from pathflip.features import extract_cohort, load_encoder, read_features
from pathflip.geometry import TileSpec
from pathflip.io.slide_id import slide_id
from pathflip.slide import open_slide

SPEC = TileSpec(64, 2.0)
CLI = f"{sys.executable} -c 'from pathflip.cli import main; main()'"


def run(paths, out, spec=SPEC, **options):
    return extract_cohort(paths, spec, "colour_histogram", out, num_workers=1, **options)


def statuses(outcomes):
    return {o.slide_id: o.status for o in outcomes}


def failures(out):
    path = Path(out) / "failures.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def feature_files(out):
    return sorted((Path(out) / "features_colour_histogram").glob("[!.]*.h5"))


def leftovers(out):
    return [p.name for p in Path(out).rglob(".*tmp*")]


@pytest.fixture
def slides(tmp_path):
    (tmp_path / "slides").mkdir()
    return [write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i) for i in range(4)]


@pytest.fixture
def expected(slides, tmp_path):
    """What an undisturbed run writes."""
    outcomes = run(slides, tmp_path / "expected")
    assert set(statuses(outcomes).values()) == {"done"}
    return {o.slide_id: read_features(o.path).features for o in outcomes}


def assert_complete(out, expected):
    """All slides, each equal to the undisturbed run, and nothing half-written beside them."""
    features = {path.stem: read_features(path).features for path in feature_files(out)}
    assert sorted(features) == sorted(expected)
    for name, rows in expected.items():
        np.testing.assert_array_equal(features[name], rows)
    assert leftovers(out) == []
    assert failures(out) == []


# ---------------------------------------------------------------- kills


def test_kill_9_at_random_moments(slides, expected, tmp_path):
    """Real processes, killed some milliseconds after they took up work, until one gets through."""
    rng = np.random.default_rng(0)
    out, kills, seen = tmp_path / "o", 0, set()
    for attempt in range(40):
        log = tmp_path / f"log{attempt}"
        process = start(slides, out, log)
        lock = out / "features_colour_histogram" / ".lock"
        while process.is_alive() and not (lock.exists() and str(process.pid) in lock.read_text()):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02 + 0.02 * attempt))
        process.kill()
        process.join()
        done = {path.stem for path in feature_files(out)}
        for name in done:  # whatever has its final name is whole
            np.testing.assert_array_equal(read_features(out / "features_colour_histogram" / f"{name}.h5").features,
                                          expected[name])  # fmt: skip
        assert seen <= done
        seen = done
        rows = logged_rows(log)
        assert not any("error" in row for row in rows), rows
        if rows and rows[-1].get("finished"):
            break
        kills += 1
    else:
        pytest.fail("no run got through")
    assert kills >= 3
    assert set(statuses(run(slides, out)).values()) == {"skipped"}
    assert_complete(out, expected)


def test_a_line_torn_by_a_kill_does_not_stop_later_runs(slides, expected, tmp_path):
    out = tmp_path / "o"
    out.mkdir()
    other = {"slide_id": "elsewhere", "path": "x", "encoder": "stain_texture", "error": "E", "message": "m"}
    (out / "failures.jsonl").write_text(json.dumps(other) + '\n{"slide_id": "s1", "enc')
    run(slides, out)
    assert [row["slide_id"] for row in failures(out)] == ["elsewhere"]
    (out / "failures.jsonl").unlink()
    assert_complete(out, expected)


# ---------------------------------------------------------------- where results go


class FullDisk:
    """Every way of writing used by the run counts; from the ``position``-th on the disk is full."""

    def __init__(self, monkeypatch, position):
        from pathflip.io import files

        self.position, self.count = position, 0
        real_fsync, real_replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", self.counted(real_fsync))
        monkeypatch.setattr(os, "replace", self.counted(real_replace))
        monkeypatch.setattr(files, "open", self.opened, raising=False)

    def tick(self):
        self.count += 1
        if self.count >= self.position:
            raise OSError(errno.ENOSPC, "No space left on device")

    def counted(self, function):
        def call(*args, **options):
            self.tick()
            return function(*args, **options)

        return call

    def opened(self, path, mode="r", **options):
        handle = open(path, mode, **options)  # noqa: SIM115  # closed by its user
        return HalfWritten(handle, self.tick) if "w" in mode else handle


class HalfWritten:
    """A file on that disk: half of what is written fits."""

    def __init__(self, handle, tick):
        self._handle, self._tick = handle, tick

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self._handle.close()

    def write(self, data):
        data = bytes(data)
        self._handle.write(data[: len(data) // 2])
        self._tick()
        self._handle.write(data[len(data) // 2 :])


def test_disk_full_at_every_write(slides, expected, tmp_path):
    stopped = []
    for position in range(1, 40):
        out = tmp_path / f"o{position}"
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, position)
            try:
                run(slides, out)
            except OutputError as error:
                stopped.append(str(error))
            else:
                break
        assert leftovers(out) == []
        for path in feature_files(out):
            np.testing.assert_array_equal(read_features(path).features, expected[path.stem])
        run(slides, out)  # room again
        assert_complete(out, expected)
    assert disk.count < disk.position
    assert len(stopped) == 2 + 3 * len(slides)  # the settings' fsync and rename; each file's write, fsync and rename
    assert all("No space left on device" in line and "run the same command again" in line for line in stopped)


def test_a_file_size_limit_fails_slides_and_crashes_nothing(slides, expected, tmp_path):
    """HDF5's own writing leaves handles behind that end in a segmentation fault; ours must not."""
    for limit in (3000, 8000, 16000):
        log = tmp_path / f"log{limit}"
        process = start(slides, tmp_path / "o", log, file_size=limit)
        process.join(60)
        assert process.exitcode == 0
        rows = logged_rows(log)
        assert all(row["status"] == "failed" and "File too large" in row["message"] for row in rows if "slide" in row)
        assert feature_files(tmp_path / "o") == []
        assert leftovers(tmp_path / "o") == []
    run(slides, tmp_path / "o")
    assert_complete(tmp_path / "o", expected)


FULL_DISK = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cohort_run import run_cohort
slides, out, log = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72k", "tmpfs", out], check=True)
run_cohort(sorted(slides.iterdir()), out, log)
subprocess.run(["mount", "-o", "remount,size=8m", out], check=True)
run_cohort(sorted(slides.iterdir()), out, log)
subprocess.run(["cp", "-r", out, log + ".copy"], check=True)
"""


def test_a_really_full_disk(slides, expected, tmp_path):
    """A small tmpfs in a mount namespace of its own; then it is given room."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("no user namespaces here: cannot mount a small file system")
    (tmp_path / "small").mkdir()
    words = [Path(__file__).parent, tmp_path / "slides", tmp_path / "small", tmp_path / "log"]
    command = ["unshare", "-Urm", sys.executable, "-c", FULL_DISK, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done  # a segmentation fault would be -11
    rows = logged_rows(tmp_path / "log")
    (stop,) = (i for i, row in enumerate(rows) if "error" in row)
    assert rows[stop]["error"] == "OutputError"
    assert "No space left on device" in rows[stop]["message"]
    assert [row["status"] for row in rows[:stop]] == ["done"] * stop
    assert 0 < stop < 4
    assert [row["status"] for row in rows[stop + 1 : -1]] == ["skipped"] * stop + ["done"] * (4 - stop)
    assert_complete(tmp_path / "log.copy", expected)


@pytest.fixture
def ordinary_user():
    """A folder and a way to act as a user who is not root; permissions mean nothing to root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def as_ordinary_user(action):
    """Run with the rights of nobody (where tests run as root), and come back."""
    if os.geteuid() != 0:
        return action()
    os.seteuid(65534)
    try:
        return action()
    finally:
        os.seteuid(0)


def test_read_only_output_and_output_that_is_a_file(slides, ordinary_user):
    slide = shutil.copy(slides[0], ordinary_user / "s.tif")
    (ordinary_user / "o").mkdir(mode=0o555)
    with pytest.raises(OutputError, match=r"o.*Permission denied; nothing finished is lost"):
        as_ordinary_user(lambda: run([slide], ordinary_user / "o"))
    (ordinary_user / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file.*Not a directory"):
        run([slide], ordinary_user / "file")


def test_two_processes_on_one_output_folder(slides, expected, tmp_path):
    out, log = tmp_path / "o", tmp_path / "first"
    many = [*slides, *(write_slide(tmp_path / f"t{i}.tif", seed=i) for i in range(12))]
    first = start(many, out, log)
    while not logged_rows(log):
        time.sleep(0.002)
    run_cohort(slides, out, tmp_path / "second")
    (refused,) = logged_rows(tmp_path / "second")
    first.join(60)
    assert refused["error"] == "ConfigError"
    assert f"another extraction (process {first.pid} on " in refused["message"]
    assert logged_rows(log)[-1].get("finished")
    assert len(feature_files(out)) == 16
    run_cohort(slides, out, tmp_path / "third")  # the lock ended with its holder
    assert [row.get("status") for row in logged_rows(tmp_path / "third")][:-1] == ["skipped"] * 4


def test_file_systems_without_locks_are_not_taken_for_busy(slides, expected, tmp_path, monkeypatch):
    import fcntl

    def flock(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "o" / "features_colour_histogram").mkdir(parents=True)
    other = tmp_path / "o" / "features_colour_histogram" / ".x.0.tmp.h5"
    other.write_text("perhaps another run is writing this")
    run(slides, tmp_path / "o")
    assert other.exists()
    other.unlink()
    assert_complete(tmp_path / "o", expected)


# ---------------------------------------------------------------- settings


def test_other_slides_with_other_settings_do_not_join_a_folder(slides, tmp_path):
    run(slides[:2], tmp_path / "o")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"'s0.h5' there is of a slide not in this run .*mpp was 2.0, now 4.0"):
            run(slides[2:], tmp_path / "o", TileSpec(64, 4.0), overwrite=overwrite)
    (tmp_path / "o" / "features_colour_histogram" / ".settings.json").unlink()  # an older version's folder
    with pytest.raises(ConfigError, match=r"mpp was 2\.0, now 4\.0"):
        run(slides[2:], tmp_path / "o", TileSpec(64, 4.0))
    assert len(run(slides, tmp_path / "o")) == len(feature_files(tmp_path / "o")) == 4


def test_overwriting_never_leaves_two_kinds(slides, tmp_path):
    """Neither when a slide fails the second time, nor when the second run is cut short."""
    run(slides, tmp_path / "o")
    slides[2].write_bytes(b"broken since")
    outcomes = run(slides, tmp_path / "o", TileSpec(32, 2.0), overwrite=True)
    assert [o.status for o in outcomes] == ["done", "done", "failed", "done"]
    assert [p.stem for p in feature_files(tmp_path / "o")] == ["s0", "s1", "s3"]
    assert {read_features(p).spec.tile_px for p in feature_files(tmp_path / "o")} == {32}

    def cut(step):
        if step.outcome is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(slides, tmp_path / "o", replace(SPEC, stride_px=32), overwrite=True, progress=cut)
    assert {read_features(p).spec.stride_px for p in feature_files(tmp_path / "o")} == {32}
    assert len(feature_files(tmp_path / "o")) == 1


def test_every_output_carries_the_hash_of_its_settings(slides, tmp_path):
    import h5py

    hashes = set()
    for spec in (SPEC, replace(SPEC, stride_px=32), replace(SPEC, min_tissue=0.5)):
        (outcome,) = run(slides[:1], tmp_path / str(len(hashes)), spec)
        with h5py.File(outcome.path) as file:
            assert json.loads(file.attrs["settings"])["slide_bytes"] == slides[0].stat().st_size
            hashes.add(file.attrs["settings_hash"])
    assert len(hashes) == 3


# ---------------------------------------------------------------- slides


def broken_inputs(folder, good):
    """Files that are not slides, by the text their refusal must hold."""
    (folder / "zero.svs").touch()
    (folder / "folder.svs").mkdir()
    (folder / "text.tif").write_text("not a slide\n" * 100)
    (folder / "cut.tif").write_bytes(good.read_bytes()[:60])
    (folder / "loop.tif").symlink_to(folder / "loop.tif")
    (folder / "dangling.tif").symlink_to(folder / "nowhere")
    return {
        "zero": "empty (0 bytes)", "folder": "got a folder", "text": "neither OpenSlide nor Pillow",
        "cut": "", "loop": "symbolic links", "dangling": "no such file", "gone": "no such file",
    }  # fmt: skip


def test_what_is_no_slide_is_named_and_the_rest_goes_on(slides, expected, tmp_path):
    reasons = broken_inputs(tmp_path / "slides", slides[0])
    paths = [*sorted((tmp_path / "slides").iterdir()), tmp_path / "slides" / "gone.tif"]
    outcomes = run(paths, tmp_path / "o")
    assert {o.slide_id for o in outcomes if o.status == "failed"} == set(reasons)
    rows = {row["slide_id"]: row for row in failures(tmp_path / "o")}
    for name, reason in reasons.items():
        assert reason in rows[name]["message"], rows[name]
        assert "\n" not in rows[name]["message"]
    (tmp_path / "o" / "failures.jsonl").unlink()
    assert_complete(tmp_path / "o", expected)


@pytest.mark.parametrize("name", ["png.svs", "tiff.ndpi", "slide.jpeg"])
def test_a_wrong_extension_does_no_harm(tmp_path, name):
    from PIL import Image

    if name == "png.svs":
        Image.fromarray(tissue_picture()).save(tmp_path / name, format="PNG", dpi=(12700, 12700))
    else:
        write_slide(tmp_path / name)
    (outcome,) = run([tmp_path / name], tmp_path / "o")
    assert outcome.status == "done"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_a_truncated_slide_is_refused(tmp_path, share):
    whole = write_slide(tmp_path / "whole.tif", compression="jpeg").read_bytes()
    (tmp_path / "s.tif").write_bytes(whole[: int(len(whole) * share)])
    (outcome,) = run([tmp_path / "s.tif"], tmp_path / "o")
    assert (outcome.status, outcome.error) == ("failed", "SlideError")
    (tmp_path / "s.tif").write_bytes(whole)  # copied again
    (outcome,) = run([tmp_path / "s.tif"], tmp_path / "o")
    assert outcome.status == "done"
    assert failures(tmp_path / "o") == []


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_tiles_that_do_not_decode_are_invalid_rows(tmp_path, compression):
    """One tile overwritten; and the file's second half empty, as a copy that allocates first leaves it."""
    import tifffile

    path = write_slide(tmp_path / "whole.tif", compression=compression, tile=64)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        columns, offsets, counts = -(-page.imagewidth // 64), page.dataoffsets, page.databytecounts
    for name, lost in (("one.tif", [5 * columns + 5]), ("half.tif", range(5 * columns, len(offsets)))):
        data = bytearray(path.read_bytes())
        for tile in lost:
            data[offsets[tile] : offsets[tile] + counts[tile]] = bytes(counts[tile])
        (tmp_path / name).write_bytes(data)
    good, one, half = run([path, tmp_path / "one.tif", tmp_path / "half.tif"], tmp_path / "o")
    reference = read_features(good.path)
    rows = reference.coords // 64
    for outcome, damaged in ((one, (rows == 5).all(axis=1)), (half, rows[:, 1] >= 5)):
        features = read_features(outcome.path)
        assert (outcome.status, outcome.invalid) == ("done", damaged.sum())
        assert outcome.message == f"{damaged.sum()} tiles could not be read"
        np.testing.assert_array_equal(~features.valid, damaged)
        np.testing.assert_array_equal(features.features[~damaged], reference.features[~damaged])
    (tmp_path / "half.tif").write_bytes(path.read_bytes() + b"tail")  # copied again: said, not silently skipped
    with pytest.raises(ConfigError, match=r"half.h5.*slide_bytes was"):
        run([path, tmp_path / "one.tif", tmp_path / "half.tif"], tmp_path / "o")


def test_no_permission_to_read(slides, ordinary_user):
    good, secret = shutil.copy(slides[0], ordinary_user / "a.tif"), shutil.copy(slides[1], ordinary_user / "b.tif")
    (ordinary_user / "closed").mkdir()
    inside = shutil.copy(slides[2], ordinary_user / "closed" / "c.tif")
    secret.chmod(0)
    (ordinary_user / "closed").chmod(0)
    outcomes = as_ordinary_user(lambda: run([good, secret, inside], ordinary_user / "o"))
    (ordinary_user / "closed").chmod(0o755)
    assert statuses(outcomes) == {"a": "done", "b": "failed", "c": "failed"}
    assert all("Permission denied" in o.message for o in outcomes[1:])


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_a_share_that_goes_away_fails_the_slide_whole_and_the_next_run_makes_it(tmp_path, monkeypatch, compression):
    """Not rows marked invalid: that file would later pass for finished."""
    slide = write_slide(tmp_path / "s.tif", compression=compression)
    real, calls = os.pread, []

    def pread(fd, count, offset):
        calls.append(offset)
        if len(calls) > 15:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    (outcome,) = run([slide], tmp_path / "o", TileSpec(16, 2.0))
    assert (outcome.status, outcome.error) == ("failed", "SlideLostError")
    assert "Input/output error" in outcome.message
    assert feature_files(tmp_path / "o") == []
    monkeypatch.undo()
    (outcome,) = run([slide], tmp_path / "o", TileSpec(16, 2.0))
    assert (outcome.status, outcome.invalid) == ("done", 0)


class DuringEncoding:
    """An encoder that does something to the world while a slide is under way."""

    def __init__(self, action):
        self._encoder, self._action = load_encoder("colour_histogram", "cpu"), action

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode(self, tiles, state=None):
        self._action()
        return self._encoder.encode(tiles, state)


@pytest.mark.parametrize("how", ["deleted", "replaced", "rewritten"])
def test_a_slide_that_changes_while_it_is_read(slides, tmp_path, how):
    victim = slides[0]
    other = write_slide(tmp_path / "other.tif", seed=9, px=704)

    def change():
        if how == "deleted":
            victim.unlink(missing_ok=True)
        elif how == "replaced":
            handle, copy = tempfile.mkstemp(dir=tmp_path)  # several threads may be here at once
            os.close(handle)
            os.replace(shutil.copy(other, copy), victim)
        else:
            victim.write_bytes(other.read_bytes())

    first, second = extract_cohort([victim, slides[1]], SPEC, DuringEncoding(change), tmp_path / "o")
    assert (first.status, first.error) == ("failed", "SlideLostError")
    assert second.status == "done"
    assert [p.stem for p in feature_files(tmp_path / "o")] == ["s1"]


def test_a_slide_that_vanishes_before_its_turn(slides, tmp_path):
    encoder = DuringEncoding(lambda: slides[1].unlink(missing_ok=True))
    first, second, third, _ = extract_cohort(slides, SPEC, encoder, tmp_path / "o")
    assert (first.status, second.status, third.status) == ("done", "failed", "done")
    assert "no such file" in second.message


# ---------------------------------------------------------------- names


NAMES = ["with space.tif", " -leading 'quotes\".tif", "Müller ß 病理 🔬.tif", "a#b%c&d.e.tif", "理" * 83 + ".tif"]


@pytest.mark.parametrize("name", NAMES)
def test_names_survive(tmp_path, name):
    path = write_slide(tmp_path / "s.tif").rename(tmp_path / name)
    (outcome,) = run([path], tmp_path / "o")
    assert (outcome.status, outcome.message) == ("done", "")
    assert outcome.path.name == f"{name[:-4].strip()}.h5"  # white space around a name means nothing in a table
    assert read_features(outcome.path).slide_id == name[:-4].strip()


def test_composed_and_decomposed_names_are_one_name(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Müller.tif") for form in ("NFC", "NFD"))
    assert slide_id(decomposed) == slide_id(composed) == "Müller"
    (tmp_path / "mac").mkdir()
    first = write_slide(tmp_path / "s.tif").rename(tmp_path / "mac" / decomposed)
    (outcome,) = run([first], tmp_path / "o")
    assert outcome.path.name == unicodedata.normalize("NFC", "Müller.h5")
    second = write_slide(tmp_path / "t.tif", seed=2).rename(tmp_path / "mac" / composed)
    with pytest.raises(ConfigError, match="two slides are named"):
        run([first, second], tmp_path / "o")


def test_a_name_that_is_no_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.tif")
    os.rename(write_slide(tmp_path / "s.tif"), path)
    bad = os.path.join(os.fsencode(tmp_path), b"bad\xe9.tif")
    with open(bad, "wb") as handle:
        handle.write(b"nothing")
    good, broken = run([os.fsdecode(path), os.fsdecode(bad)], tmp_path / "o")
    assert (good.status, good.slide_id) == ("done", "caf%E9")
    assert broken.status == "failed"
    assert failures(tmp_path / "o")[0]["slide_id"] == "bad%E9"
    shown = subprocess.run(f"{CLI} info '{tmp_path}' --json", shell=True, capture_output=True, text=True, check=False)
    assert [json.loads(line)["slide_id"] for line in shown.stdout.splitlines()] == ["bad%E9", "caf%E9"]


def test_equal_names_are_refused_or_take_their_folders_name(slides, tmp_path):
    for folder in ("P1", "P2"):
        (tmp_path / folder).mkdir()
        write_slide(tmp_path / folder / "slide.tif", seed=int(folder[1]))
    paths = [tmp_path / "P1" / "slide.tif", tmp_path / "P2" / "slide.tif"]
    with pytest.raises(ConfigError, match=rf"{paths[0]}.*{paths[1]}.*--names folder"):
        run(paths, tmp_path / "o", names="stem")
    outcomes = run(paths, tmp_path / "o")
    assert statuses(outcomes) == {"P1__slide": "done", "P2__slide": "done"}
    assert [read_features(o.path).slide_id for o in outcomes] == ["P1__slide", "P2__slide"]
    assert set(statuses(run(paths, tmp_path / "o", names="folder")).values()) == {"skipped"}
    (tmp_path / "x" / "P1").mkdir(parents=True)
    deeper = write_slide(tmp_path / "x" / "P1" / "slide.tif")
    with pytest.raises(ConfigError, match="rename one"):
        run([*paths, deeper], tmp_path / "o", names="folder")
    with pytest.raises(ConfigError, match="expected 'auto', 'stem' or 'folder'"):
        run(paths, tmp_path / "o", names="path")
    (tmp_path / "link.d").mkdir()
    (tmp_path / "link.d" / "slide.tif").symlink_to(paths[0])
    assert len(run([paths[0], tmp_path / "link.d" / "slide.tif"], tmp_path / "o2")) == 1  # one file named twice


# ---------------------------------------------------------------- time, memory


def test_a_clock_that_jumps_does_no_harm(slides, expected, tmp_path, monkeypatch):
    now = time.time()
    ticks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 10**6 * next(ticks))
    os.utime(slides[0], (now + 10**8, now + 10**8))
    os.utime(slides[1], (0, 0))
    steps = []
    run(slides, tmp_path / "o", progress=steps.append)
    assert all(step.seconds >= 0 and (step.seconds_left or 0) >= 0 for step in steps)
    assert set(statuses(run(slides, tmp_path / "o")).values()) == {"skipped"}
    assert_complete(tmp_path / "o", expected)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """Over 300 slides; ``bench/memory.py`` does the same over 1,000."""
    (tmp_path / "slides").mkdir()
    write_slide(tmp_path / "s.tif", px=256)
    paths = [tmp_path / "slides" / f"{i:04d}.tif" for i in range(300)]
    for path in paths:
        os.link(tmp_path / "s.tif", path)
    start(paths, tmp_path / "o", tmp_path / "log", memory_log=True).join(300)
    *rows, last = logged_rows(tmp_path / "log")
    assert last.get("finished"), last
    assert [row["status"] for row in rows] == ["done"] * 300
    memory = np.array(last["memory"]) / 2**20
    assert memory[-50:].mean() - memory[50:100].mean() < 3  # MB


def test_threads_and_handles_do_not_pile_up(slides, tmp_path):
    run(slides, tmp_path / "first")
    before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
    for i in range(5):
        (tmp_path / "bad.tif").write_bytes(slides[0].read_bytes()[:60])
        run([*slides, tmp_path / "bad.tif"], tmp_path / str(i))
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_all_refusals_are_one_line(tmp_path):
    for path in (tmp_path / "none.svs", tmp_path):
        with pytest.raises(PathFLIPError) as caught:
            open_slide(path)
        assert "\n" not in str(caught.value)
