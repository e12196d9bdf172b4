"""Tables of labels as other laboratories write them."""

import pytest

from pathflip.errors import CaptionError
from pathflip.evaluate.labels import read_labels


def test_a_table_without_labels_is_refused_once_and_told_how_to_name_them(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("Filename;Dx\ns1.svs;melanoma\ns2.svs;benign\n", encoding="utf-8-sig")
    with pytest.raises(CaptionError, match=r"no column 'label'; got dx, filename; .*--label-column") as refused:
        read_labels(file)
    assert str(refused.value).count("no column") == 1
    assert [(one.slide_id, one.label) for one in read_labels(file, "Dx")] == [("s1", "melanoma"), ("s2", "benign")]


@pytest.mark.parametrize("column", ["Case No", "accession", "Patient ID"])
def test_slides_of_one_case_are_of_one_patient(tmp_path, column):
    file = tmp_path / "labels.csv"
    file.write_text(f"slide,{column},label\na,7,x\nb,7,x\nc,8,y\nTCGA-AA-0001-01Z-00-DX1,,y\n")
    assert [one.patient for one in read_labels(file)] == ["7", "7", "8", "TCGA-AA-0001"]
