"""Which findings of a case the report page shows."""

from pathflip.evaluate.simulated.case_example import _told_apart


def test_findings_of_one_slide_come_first_and_each_once():
    expected = [
        {"concept": "necrosis", "negated": False, "slides": ["a"]},
        {"concept": "necrosis", "negated": False, "slides": ["b"]},
        {"concept": "calcification", "negated": True, "slides": ["a", "b"]},
        {"concept": "haemorrhage", "negated": False, "slides": ["a"]},
        {"concept": "mucin_pools", "negated": False, "slides": ["a"]},
        {"concept": "smooth_muscle", "negated": False, "slides": ["b"]},
    ]
    assert [one["concept"] for one in _told_apart(expected, 4)] == [
        "haemorrhage",
        "smooth_muscle",
        "mucin_pools",
        "necrosis",
    ]
    assert [one["concept"] for one in _told_apart(expected[:3], 4)] == ["necrosis"]
    assert _told_apart([], 3) == []
