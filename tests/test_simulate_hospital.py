"""Reports of painted cases: their truth against the slides, and the package's reading of them against their truth."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from hospital_truth import Outcomes, held_against_truth
from keyword_world import as_planned
from pathflip.simulate import World, simulate
from pathflip.simulate.case_reports import CaseReport, PaintedSlide, write_case_report
from pathflip.simulate.cases import plan_cases
from pathflip.simulate.german_phrases import GERMAN_NAMES
from pathflip.simulate.phrases import NAMES
from pathflip.simulate.report_shapes import SHAPES
from pathflip.simulate.report_writer import write_report
from pathflip.simulate.world import FINDINGS
from pathflip.text.captions import read_captions
from pathflip.types import Case

WORLD = World.named("hospital", seed=5)
MOST_CASES = 30
"""Reports taken apart for each shape: some seconds in all."""


@pytest.fixture(scope="module")
def slides():
    """Every slide of the world by patient, painted exactly as planned."""
    of_patient: dict[str, list[PaintedSlide]] = {}
    for plan in plan_cases(WORLD):
        measured = as_planned(plan)
        report = write_report(plan, measured, WORLD.rng("report", plan.slide_id))
        of_patient.setdefault(plan.patient, []).append(PaintedSlide(plan.slide_id, measured, report.sub_captions))
    return of_patient


@pytest.fixture(scope="module")
def cases(slides) -> list[CaseReport]:
    return [write_case_report(WORLD, patient, own) for patient, own in sorted(slides.items())]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_as_it_was_meant(cases, shape):
    outcomes = Outcomes()
    for case in [one for one in cases if one.shape == shape][:MOST_CASES]:
        held_against_truth(case, outcomes)
    assert sum(outcomes.counts.values()) > 100
    assert outcomes.counts["opposite"] == outcomes.counts["invented"] == 0, outcomes.wrong
    assert outcomes.recovered >= 0.97, outcomes.wrong
    assert outcomes.counts["leaked"] <= 0.02 * outcomes.counts["hidden"], outcomes.wrong


def _names(concept):
    return [*NAMES[concept].plural, GERMAN_NAMES[concept].name, GERMAN_NAMES[concept].dative]


def test_the_truth_names_the_slides_that_show_a_finding(cases, slides):
    """Findings are looked for in the sentences by their names, and on the slides by what was painted."""
    shown = {one.slide_id: set(one.present) for own in slides.values() for one in own}
    part_of = {one.slide: one.part for case in cases for one in case.slides}
    checked = Counter()
    for case in cases:
        for sub_caption in case.sub_captions:
            if not sub_caption.visual or sub_caption.concept not in FINDINGS:
                continue
            text = sub_caption.sentence.casefold()
            assert any(name.casefold() in text for name in _names(sub_caption.concept)), sub_caption
            for slide in (one.slide for one in case.slides):
                own_part = not sub_caption.part or part_of[slide] == sub_caption.part
                for concept in (sub_caption.concept, *sub_caption.others):
                    there = concept in shown[slide]
                    if sub_caption.negated:
                        assert not (own_part and there), (sub_caption, slide)
                    elif own_part:
                        assert (slide in sub_caption.slides) == there, (sub_caption, slide)
                checked[sub_caption.negated] += 1
    assert min(checked.values()) > 500


def test_every_finding_of_a_slide_is_in_its_report(cases, slides):
    for case in cases:
        for slide in slides[case.patient]:
            stated = {s.concept for s in case.sub_captions if not s.negated and slide.slide_id in s.slides}
            assert set(slide.present) <= stated, case


def test_cases_have_all_kinds_of_parts(cases, slides):
    kinds = Counter(tuple(one.part for one in case.slides) for case in cases)
    assert kinds.keys() == {("",), ("A",), ("A", "B"), ("A1", "A2")}
    assert {case.shape for case in cases} == set(SHAPES)
    unseen = [s for case in cases for s in case.sub_captions if s.part == "B" and len(case.slides) == 1]
    assert len(unseen) > 50
    assert not any(one.visual or one.slides for one in unseen)
    again = [write_case_report(WORLD, case.patient, slides[case.patient]) for case in cases[:20]]
    assert again == cases[:20]


def test_a_cohort_gets_its_cases_beside_the_plain_reports(tmp_path):
    world = replace(World.named("quick-hospital", seed=2), num_cases=6, slide_px=512)
    simulate(replace(world, reports="plain"), tmp_path, num_workers=1)
    assert not (tmp_path / "reports.csv").exists()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    simulate(world, tmp_path, num_workers=1)
    assert all(file.read_bytes() == content for file, content in before.items())
    truth = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    captions = read_captions(tmp_path / "reports.csv")
    by_case = {row["case"]: row for row in truth}
    plain = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    named = sorted(slide["slide"] for row in truth for slide in row["slides"])
    assert named == sorted(row["slide"] for row in plain)
    assert all(isinstance(one, Case) for one in captions)
    assert {one.case_id: [s.slide_id for s in one.slides] for one in captions} == {
        case: [slide["slide"] for slide in row["slides"]] for case, row in by_case.items()
    }
