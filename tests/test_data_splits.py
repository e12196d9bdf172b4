"""Splits of slides: named as captions name them; what would silently leave slides out is refused in one line."""

import warnings

import pytest

from pathflip.data.splits import read_splits
from pathflip.errors import ConfigError
from pathflip.train.align_run import read_split


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "splits.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_slides_are_named_as_captions_name_them(tmp_path):
    path = written(tmp_path, "\ufeffslide,split,site\nfolder/a.svs,train,1\nb,test,2\nc, val ,3\nd,,4\n")
    assert read_splits(path) == {"a": "train", "b": "test", "c": "val", "d": ""}


@pytest.mark.parametrize("header", ["Slide ID,Set", "wsi,Partition", "Case Number,split", "filename,SUBSET"])
def test_columns_may_bear_their_usual_names(tmp_path, header):
    assert read_splits(written(tmp_path, f"{header}\na,train\nb,test\n")) == {"a": "train", "b": "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,split\na,train\nb,training\n", "row 2: split 'training'"),
        ("slide,part\na,train\n", "columns slide and split"),
        ("", "columns slide and split"),
        ("slide,split\na,train\na.svs,test\n", "slide 'a' is in two splits"),
        ("slide,patient,split\na,P,train\nb,P,test\n", "patient 'P' has slides in train and test"),
    ],
)
def test_what_would_leave_slides_out_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_splits(written(tmp_path, text))


def test_a_patient_may_have_a_slide_left_out(tmp_path):
    path = written(tmp_path, "slide,patient,split\na,P,train\nb,P,\n")
    assert read_splits(path) == {"a": "train", "b": ""}


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_splits(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"not UTF-8 .* expected the columns slide and split"):
        read_splits(written(tmp_path, "slide,split\n病理病理,train\n", "shift_jis"))
    with pytest.warns(UserWarning, match="read as Windows-1252"):
        assert read_splits(written(tmp_path, "slide,split\nMüller,train\n", "cp1252")) == {"Müller": "train"}


def test_splits_of_other_names_are_used_where_they_are_asked_for(tmp_path):
    path = written(tmp_path, "slide,split\na,Train\nb,internal_test\nc,fold0_val\nd,internal_test\n")
    with pytest.warns(UserWarning, match=r"'splits.csv' names splits besides train, val, test: fold0_val \(1\);"):
        known = read_splits(path, asked="internal_test")
    assert known == {"a": "train", "b": "internal_test", "c": "fold0_val", "d": "internal_test"}
    with pytest.raises(ConfigError, match=r"got 'tset', expected one .*: fold0_val \(1\), internal_test \(2\), train"):
        read_splits(path, asked="tset")
    only = written(tmp_path, "slide,split\na,train\nb,internal_test\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_splits(only, asked="internal_test") == {"a": "train", "b": "internal_test"}


def test_splits_of_other_slides_are_refused(tmp_path):
    captions = tmp_path / "captions.csv"
    captions.write_text("slide,text\na,Necrosis is present.\n")
    with pytest.raises(ConfigError, match=r"names none of the slides of 'captions.csv'"):
        read_split([], captions, written(tmp_path, "slide,split\nb,train\n"))
    assert [c.slide_id for c in read_split([], captions, written(tmp_path, "slide,split\na.svs,val\n"))["val"][1]] == [
        "a"
    ]


def test_features_and_captions_without_a_common_slide_are_refused_with_both_names(tmp_path):
    captions = tmp_path / "captions.csv"
    captions.write_text("slide,patient,text\na,p,Necrosis is seen.\n")
    with pytest.raises(ConfigError, match=r"share no slide: features are named 'scan-7' .* captions 'a'"):
        read_split([tmp_path / "scan-7.h5"], captions, None)
