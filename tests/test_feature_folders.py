"""Folders of other tools where features are asked for: the files inside are found, or one line says what to run."""

import re
import shlex

import h5py
import numpy as np
import pytest

from interop_samples import sample
from pathflip.cli.app import files_in
from pathflip.errors import ConfigError, FeatureError
from pathflip.features import read_features, write_features
from pathflip.interop import ReadOptions, convert

NAMES = ("a", "b")


@pytest.fixture
def ours(tmp_path):
    """What ``pathflip extract --out`` leaves."""
    for seed, name in enumerate(NAMES):
        write_features(tmp_path / "ours" / "features_uni_v1" / f"{name}.h5", sample(name=name, seed=seed))
    (tmp_path / "ours" / "failures.jsonl").write_text("")
    return tmp_path / "ours"


def test_the_folder_that_extract_was_told_is_enough(ours):
    inside = [ours / "features_uni_v1" / f"{name}.h5" for name in NAMES]
    assert files_in([ours], {".h5"}) == inside == files_in([ours / "features_uni_v1"], {".h5"})


@pytest.mark.parametrize(("to", "below"), [("trident", "*"), ("clam", "h5_files"), ("stamp", "uni_v1")])
def test_a_job_of_another_tool_is_named_with_the_command_that_converts_it(ours, tmp_path, to, below):
    job = tmp_path / f"a {to} job"
    assert not [row.error for row in convert([ours / "features_uni_v1"], to, job) if row.error]
    for folder in (job, *job.glob(below)):
        with pytest.raises(ConfigError, match=rf"not PathFLIP's \({to}") as refused:
            files_in([folder], {".h5"})
        command = re.search(r"pathflip convert .* --out", str(refused.value))
        words = shlex.split(command.group())
        assert words[2] == str(folder)  # quoted: it can be pasted
        done = convert([words[2]], "pathflip", tmp_path / "back" / folder.name, ReadOptions(slide_mpp=0.25))
        assert [row.error for row in done] == [None, None]
        assert len(files_in([tmp_path / "back" / folder.name], {".h5"})) == 2


def test_features_of_two_kinds_are_not_chosen_between(ours):
    write_features(ours / "features_virchow2" / "a.h5", sample(name="a", encoder="virchow2"))
    with pytest.raises(ConfigError, match=r"features of 2 kinds \(features_uni_v1, features_virchow2\)"):
        files_in([ours], {".h5"})


def test_one_foreign_or_damaged_file_among_ours_is_left_to_its_row(ours, tmp_path):
    (ours / "features_uni_v1" / "damaged.h5").write_bytes(b"no HDF5")
    assert len(files_in([ours], {".h5"})) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no \.h5… file"):
        files_in([tmp_path / "empty"], {".h5"})


def test_rows_that_are_not_finite_come_with_the_command_that_leaves_them_out(ours, tmp_path):
    path = ours / "features_uni_v1" / "a.h5"
    with h5py.File(path, "a") as file:
        matrix = file["features"][...]
        matrix[3] = np.nan
        del file["features"]
        file["features"] = matrix
    with pytest.raises(FeatureError, match=r"1 row \(3\)") as refused:
        read_features(path)
    words = shlex.split(re.search(r"pathflip convert .* --out", str(refused.value)).group())
    assert words[2:] == [str(path), "--drop-invalid", "--to", "pathflip", "--out"]
    assert convert([words[2]], "pathflip", tmp_path / "clean", ReadOptions(drop_invalid=True))[0].error is None
    assert len(read_features(tmp_path / "clean" / "features_uni_v1" / "a.h5").coords) == len(matrix) - 1
