"""Plans, reports, planted errors and questions of the synthetic cohort, against checks that share no code with them."""

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest

from keyword_world import as_planned
from pathflip.errors import ConfigError
from pathflip.evaluate.simulated.planted_errors import read_truth
from pathflip.simulate.cases import HELD_OUT_COMBINATIONS, HELD_OUT_PAIRS, plan_cases
from pathflip.simulate.phrases import (
    ABSENCE,
    AMOUNTS,
    ARRANGEMENTS,
    DEGREES,
    DIAGNOSIS,
    GRADES_SAID,
    NAMES,
    NON_VISUAL,
    NUCLEAR,
    PATTERNS_SAID,
    PLACES_SAID,
    PRESENCE,
    TYPES_SAID,
    prompts,
)
from pathflip.simulate.question_writer import write_presence_questions, write_questions
from pathflip.simulate.report_writer import ERROR_KINDS, corrupt_report, write_report
from pathflip.simulate.world import (
    CONCEPTS,
    FINDINGS,
    LABELS,
    PLACES,
    TUMOUR_ONLY,
    Measured,
    World,
    compass,
    extent_of,
    far_places,
)
from pathflip.text.refusals import CANNOT_TELL

WORLD = World.named("demo", seed=3)


def _measure(plan):
    """Not what was planned: one finding in four lost, the rest resized and moved, as a painter might."""
    rng = WORLD.rng("painter", plan.slide_id)
    measured = as_planned(plan)
    for finding in plan.findings:
        if rng.random() < 0.25:
            measured[finding.name] = Measured(0.0, "scattered", False)
        else:
            fraction = finding.fraction * rng.uniform(0.5, 1.5)
            measured[finding.name] = Measured(fraction, str(rng.choice(PLACES)), True)
    return measured


@pytest.fixture(scope="module")
def plans():
    return plan_cases(WORLD)


@pytest.fixture(scope="module")
def cases(plans):
    """(plan, measured, report) of every slide."""
    out = []
    for plan in plans:
        measured = _measure(plan)
        out.append((plan, measured, write_report(plan, measured, WORLD.rng("report", plan.slide_id))))
    return out


# ---- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes"), [("quick", (33, 5, 10)), ("demo", (280, 40, 80)), ("study", (1050, 150, 300))]
)
def test_splits_are_by_patient_and_sized(name, sizes):
    plans = plan_cases(World.named(name))
    assert tuple(sum(p.split == s for p in plans) for s in ("train", "val", "test")) == sizes
    split_of: dict[str, str] = {}
    for plan in plans:
        assert split_of.setdefault(plan.patient, plan.split) == plan.split
    slides = Counter(p.patient for p in plans)
    assert set(slides.values()) == {1, 2}
    assert np.mean([n == 2 for n in slides.values()]) == pytest.approx(0.2, abs=0.03)
    assert len({p.slide_id for p in plans}) == len({p.seed for p in plans}) == len(plans)


def test_plans_follow_from_name_and_seed(plans):
    assert plan_cases(World.named("demo", seed=3)) == plans
    assert plan_cases(World.named("demo", seed=4)) != plans
    with pytest.raises(ConfigError, match="unknown world 'huge': expected one of quick, demo, study"):
        World.named("huge")
    for few in range(1, 6):
        assert len(plan_cases(World("tiny", 0, few))) == few


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_finding_is_about_equally_frequent(plans, split):
    chosen = [p for p in plans if p.split == split]
    counts = Counter(f.name for p in chosen for f in p.findings)
    shares = [counts[name] / len(chosen) for name in FINDINGS]
    assert min(shares) >= 0.135
    assert max(shares) <= 0.225


def test_plans_keep_their_ranges(plans):
    for plan in plans:
        names = [f.name for f in plan.findings]
        assert 2 <= len(names) == len(set(names)) <= 5
        assert all(0.01 <= f.fraction <= 0.2 and f.place in PLACES for f in plan.findings)
        assert plan.tumour_fraction + sum(f.fraction for f in plan.findings) <= 0.95
        benign = plan.tumour is None
        assert benign == (plan.grade == 0) == (plan.pattern is None) == (plan.tumour_fraction == 0)
        assert not (benign and TUMOUR_ONLY & set(names))
    assert np.mean([p.tumour is None for p in plans]) == pytest.approx(0.15, abs=0.03)
    logs = np.log([f.fraction for p in plans for f in p.findings])
    halves = np.histogram(logs, bins=np.log([0.01, 0.0447, 0.2001]))[
        0
    ]  # log-uniform: halves of the log range are equal
    assert halves[0] / halves.sum() == pytest.approx(0.5, abs=0.07)


def test_held_out_combinations_are_only_in_test(plans):
    in_test = [p for p in plans if p.split == "test"]
    others = [p for p in plans if p.split != "test"]

    def pairs(plan):
        return {frozenset(pair) for pair in combinations((f.name for f in plan.findings), 2)} & HELD_OUT_PAIRS

    assert not any((p.tumour, p.pattern) in HELD_OUT_COMBINATIONS or pairs(p) for p in others)
    assert {(p.tumour, p.pattern) for p in in_test} >= HELD_OUT_COMBINATIONS
    assert set().union(*map(pairs, in_test)) == HELD_OUT_PAIRS
    assert 10 <= sum((p.tumour, p.pattern) in HELD_OUT_COMBINATIONS for p in in_test) <= 30
    seen = {(p.tumour, p.grade, p.pattern) for p in others if p.tumour}
    assert len(seen) == (5 * 4 - len(HELD_OUT_COMBINATIONS)) * 3


def test_findings_tell_nothing_of_the_tumour_type():
    plans = [p for p in plan_cases(World.named("study")) if p.tumour]
    types = sorted({p.tumour for p in plans if p.tumour})
    for name in FINDINGS:
        table = np.array([[sum(p.tumour == t and has == (name in {f.name for f in p.findings}) for p in plans)
                           for t in types] for has in (True, False)])  # fmt: skip
        expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
        assert ((table - expected) ** 2 / expected).sum() < 23.5, name  # chi-square, 4 dof, p = 1e-4


def test_words_for_places_and_extents():
    assert [compass(x, y) for x, y in [(0, 0), (0.5, 0.5), (1, 1), (0.5, 0.1)]] == [
        "upper left",
        "central",
        "lower right",
        "upper",
    ]
    assert [extent_of(f) for f in (0.0, 0.029, 0.03, 0.099, 0.1, 1.0)] == ["focal"] * 2 + ["moderate"] * 2 + [
        "extensive"
    ] * 2
    assert set(far_places("left")) == {"upper right", "right", "lower right", "scattered"}
    assert len(far_places("upper left")) == 6
    assert far_places("scattered") == ()
    assert len(LABELS) == len(set(LABELS)) == 24
    assert all(set(labels) <= set(LABELS) for labels in CONCEPTS.values())


# ---- reports: an independent reader ---------------------------------------------------------------------------------

FINDING_WORDS = {
    "keratin_pearls": r"keratin|squamous pearls",
    "mucin_pools": r"mucin",
    "necrosis": r"necro",
    "lymphoid_aggregates": r"lymphoid",
    "tumour_infiltrating_lymphocytes": r"lymphocytes",
    "vascular_invasion": r"vascular",
    "perineural_invasion": r"perineural",
    "desmoplastic_stroma": r"desmoplas",
    "hyalinised_collagen": r"hyalinised|glassy",
    "smooth_muscle": r"muscle",
    "adipose_tissue": r"adipo|fatty",
    "normal_glands": r"(?<!ir)(unremarkable|normal) gland",
    "haemorrhage": r"haemorrhage|extravasated",
    "calcification": r"calcific",
    "multinucleated_giant_cells": r"giant|multinucleate",
    "foamy_macrophages": r"foamy|lipid-laden",
    "eosinophil_infiltrate": r"eosinophil",
    "neutrophil_abscess": r"neutrophil|microabscess",
    "cystic_spaces": r"\bcyst",
    "haemosiderin_pigment": r"haemosiderin",
}
DENIAL = r"^no |\bno evidence|\bno\b|negative for|\bnot\b|absent|without|neither|cannot|lacks|nothing|^free of"
TYPE_WORDS = {
    "adenocarcinoma": "adenocarcinoma",
    "squamous_cell_carcinoma": "squamous cell|epidermoid",
    "small_cell_carcinoma": "small cell",
    "clear_cell_carcinoma": "clear cell",
    "melanoma": "melanoma",
}
GRADE_WORDS = {
    1: r"well diff|grade 1|low grade|nuclei.*(small|bland)|small and|bland and",
    2: r"moderately diff|grade 2|intermediate grade|moderately enl|mildly irr|moderate degree",
    3: r"poorly diff|grade 3|high grade|pleomorphic|bizarre",
}
PATTERN_WORDS = {
    "glandular": r"gland|acin",
    "papillary": r"papill",
    "solid_nests": r"nest|solid",
    "single_files": r"single|cord",
}
EXTENT_WORDS = {
    "focal": r"focal\b|focus|small amount|scant",
    "moderate": r"moderate|intermediate",
    "extensive": r"extensive|abundant|large area|plentiful",
}


def _places_said(text):
    """The compass cells a sentence can mean, by plain words."""
    if re.search(r"scattered|several places|multifocal|dispersed", text):
        return {"scattered"}
    if re.search(r"cent(re|ral)|middle", text):
        return {"central"}
    rows = [row for row, words in (("upper", r"upper|\btop\b"), ("lower", r"lower|bottom")) if re.search(words, text)]
    columns = [column for column in ("left", "right") if re.search(rf"\b{column}\b", text)]
    return {" ".join(rows + columns)} - {""}


def _read(words, text):
    return {key for key, pattern in words.items() if re.search(pattern, text)}


def _check(sentence, plan, measured):
    """Complain if a visual sentence is not true of the slide. Uses nothing but the sentence."""
    text = sentence.lower()
    findings = _read(FINDING_WORDS, text)
    denied = re.search(DENIAL, text) is not None
    if findings:
        assert len(findings) <= 2 if denied else len(findings) == 1
        for name in findings:
            assert measured[name].present != denied, sentence
        if not denied:
            seen = measured[findings.pop()]
            assert _places_said(text) <= {seen.place}, (sentence, seen)
            assert _read(EXTENT_WORDS, text) <= {extent_of(seen.fraction)}, (sentence, seen)
            for number in re.findall(r"([\d.]+) %", text):
                assert abs(float(number) - 100 * seen.fraction) <= 0.0501, (sentence, seen)
        return
    if denied or re.search("benign", text):
        assert plan.tumour is None, sentence
        return
    if re.search("fibrous", text):
        assert measured["fibrous_stroma"].present
        return
    assert plan.tumour is not None, sentence
    assert _read(TYPE_WORDS, text) <= {plan.tumour}, sentence
    assert _read(GRADE_WORDS, text) <= {plan.grade}, sentence
    assert _read(PATTERN_WORDS, re.sub("small cell|single rows of cells", lambda m: m[0][:6], text)) <= {
        plan.pattern
    }, sentence
    assert _places_said(text) <= {measured["tumour"].place}, sentence
    for number in re.findall(r"(\d+) %", text):
        assert abs(int(number) - 100 * measured["tumour"].fraction) <= 2.51 or number == "5"


def _sub_captions_of(report):
    return [*report.sub_captions, *report.paraphrase_sub_captions]


def test_every_visual_sentence_is_true(cases):
    checked = 0
    for plan, measured, report in cases:
        for sub_caption in _sub_captions_of(report):
            if sub_caption.visual:
                _check(sub_caption.sentence, plan, measured)
                checked += 1
    assert checked > 3000


def test_the_truth_of_a_sub_caption_is_what_the_sentence_says(cases):
    for _, _, report in cases:
        for s in _sub_captions_of(report):
            text = s.sentence.lower()
            if s.kind in ("finding", "absence") and s.concept in FINDINGS:
                assert _read(FINDING_WORDS, text) == {s.concept, *s.others}, s
            if s.visual and s.kind != "benign":
                assert s.negated == (re.search(DENIAL, text) is not None), s
            if s.kind == "finding":
                assert _places_said(text) == ({s.place} if s.place else set()), s
                assert _read(EXTENT_WORDS, text) == ({s.extent} if s.extent else set()), s
            if s.tumour or s.grade or s.pattern:
                assert _read(TYPE_WORDS, text) == ({s.tumour} if s.tumour else set()), s
                assert _read(GRADE_WORDS, text) == ({s.grade} if s.grade else set()), s


@pytest.mark.parametrize("name", ["sub_captions", "statements"])  # what truth/ID.json calls them now, and did before
def test_truth_is_read_back_from_its_file(cases, tmp_path, name):
    plan, measured, report = next(case for case in cases if any(s.others for s in case[2].sub_captions))
    written = asdict(report)
    written[name] = written.pop("sub_captions")
    record = {"plan": asdict(plan), "measured": {k: asdict(v) for k, v in measured.items()}, "report": written}
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / f"{plan.slide_id}.json").write_text(json.dumps(record), encoding="utf-8")
    (truth,) = read_truth(tmp_path, [plan.slide_id])
    assert (truth.plan, truth.measured) == (plan, measured)
    assert truth.report.sub_captions == report.sub_captions


def test_reports_are_complete_and_of_the_right_size(cases):
    for plan, measured, report in cases:
        for text, sub_captions in (
            (report.text, report.sub_captions),
            (report.paraphrase, report.paraphrase_sub_captions),
        ):
            if not sub_captions:
                continue
            assert 8 <= len(sub_captions) <= 12
            assert re.sub(r"\s", " ", text) == " ".join(s.sentence for s in sub_captions)
            concepts = sorted(s.concept for s in sub_captions if s.kind == "finding")
            assert concepts == sorted(name for name in FINDINGS if measured[name].present)
            denied = [c for s in sub_captions if s.kind == "absence" for c in (s.concept, *s.others)]
            assert len(denied) == len(set(denied)) >= 2
            assert ("tumour" in denied) == (plan.tumour is None)
            assert sum(not s.visual for s in sub_captions) >= 2
        assert bool(report.paraphrase) == (plan.split == "test")


def test_reports_of_different_cases_differ(cases):
    visual = {" ".join(s.sentence for s in report.sub_captions if s.visual) for _, _, report in cases}
    assert len(visual) >= 0.95 * len(cases)
    sentences = Counter(s.sentence for _, _, report in cases for s in report.sub_captions if s.visual)
    assert sum(n > 1 for n in sentences.values()) >= 100  # yet sentences are shared between slides


def test_reports_are_deterministic(plans):
    plan = plans[0]
    first, second = (write_report(plan, as_planned(plan), WORLD.rng("x")) for _ in range(2))
    assert first == second
    assert write_report(plan, as_planned(plan), WORLD.rng("y")) != first
    with pytest.raises(ConfigError, match="unknown split 'tests'"):
        write_report(plan, as_planned(plan), WORLD.rng("x"), "tests")


# ---- held-out wording -----------------------------------------------------------------------------------------------

WORDINGS = [*DIAGNOSIS.values(), PRESENCE, ABSENCE, *NON_VISUAL.values()]
SYNONYMS = [
    *(name.wording for name in NAMES.values()),
    *(w for table in (TYPES_SAID, PATTERNS_SAID, ARRANGEMENTS, NUCLEAR, PLACES_SAID, AMOUNTS, DEGREES, GRADES_SAID)
      for w in table.values()),
]  # fmt: skip


def test_training_text_holds_no_held_out_wording(cases):
    training = [s.sentence for plan, _, report in cases if plan.split != "test" for s in report.sub_captions]
    training_lower = "\n".join(training).lower()
    for template in (t for w in WORDINGS for t in w.held_out):
        pattern = "".join(
            ".+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", template)
        )
        assert not [s for s in training if re.fullmatch(pattern, s, re.IGNORECASE)], template
    for words in (w for wording in SYNONYMS for w in wording.held_out):
        assert words.lower() not in training_lower, words


def test_paraphrases_use_only_held_out_wording(cases):
    seen = {t for w in WORDINGS for t in w.seen}
    held_out = {t for w in WORDINGS for t in w.held_out}
    assert not seen & held_out
    for _, _, report in cases:
        assert {s.template for s in report.sub_captions} <= seen
        assert {s.template for s in report.paraphrase_sub_captions} <= held_out
    assert all(len(w.seen) >= 6 and len(w.held_out) >= 2 for w in (*DIAGNOSIS.values(), PRESENCE, ABSENCE))
    assert sum(bool(name.wording.held_out) for name in NAMES.values()) >= 10


def test_prompts_say_presence_and_absence():
    for split in ("train", "test"):
        for name in FINDINGS:
            present, absent = prompts(name, split)
            assert len(present) >= 3
            assert len(absent) >= 3
            for sentences, denied in ((present, False), (absent, True)):
                for sentence in sentences:
                    assert _read(FINDING_WORDS, sentence.lower()) == {name}
                    assert bool(re.search(DENIAL, sentence.lower())) == denied
    assert not set(prompts("necrosis", "train")[0]) & set(prompts("necrosis", "test")[0])


# ---- planted errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_planted_errors_are_false_and_all_the_rest_stays_true(cases, kind):
    planted = 0
    for plan, measured, report in cases[:200]:
        corrupted = corrupt_report(report, plan, measured, WORLD.rng("lie", plan.slide_id), [kind])
        lies = {error.sentence for error in corrupted.errors}
        for sub_caption in corrupted.sub_captions:
            if sub_caption.visual and sub_caption.sentence not in lies:
                _check(sub_caption.sentence, plan, measured)
        for error in corrupted.errors:
            planted += 1
            assert error.kind == kind
            assert (error.sentence is None) == (kind == "finding_omitted")
            assert (error.original is None) == (kind == "finding_invented")
            if error.sentence is None:
                assert str(error.original) not in corrupted.text
                assert measured[error.concept].present
                continue
            assert error.sentence in corrupted.text
            with pytest.raises(AssertionError):
                _check(error.sentence, plan, measured)
    assert planted >= 190


def test_several_errors_hit_several_sentences(cases):
    plan, measured, report = next(c for c in cases if sum(s.kind == "finding" for s in c[2].sub_captions) >= 3)
    corrupted = corrupt_report(report, plan, measured, np.random.default_rng(0), ERROR_KINDS)
    assert [e.kind for e in corrupted.errors] == list(ERROR_KINDS)
    assert len({e.sentence for e in corrupted.errors}) == len({e.original for e in corrupted.errors}) == 4
    assert corrupted == corrupt_report(report, plan, measured, np.random.default_rng(0), ERROR_KINDS)
    with pytest.raises(ConfigError, match="unknown kinds of error"):
        corrupt_report(report, plan, measured, np.random.default_rng(0), ["typo"])


# ---- questions ------------------------------------------------------------------------------------------------------


def _truth(question, plan, measured):
    """The right answer worked out from the question's words alone; None where the slide cannot tell."""
    text = question.question.lower()
    present = {name for name in FINDINGS if measured[name].present}
    named = _read(FINDING_WORDS, text)
    offered = {option: min(_read(FINDING_WORDS, option), default=None) for option in question.options}
    if "how many of these" in text:
        return ["none", "one", "two", "three"][len(named & present)]
    if re.search("^(where|in which part|how extensive)", text):
        if not named & present:
            return None
        seen = measured[named.pop()]
        if text.startswith("how extensive"):
            return extent_of(seen.fraction)
        return next(option for option in question.options if _places_said(option) == {seen.place})
    if re.search("absent|not seen", text):
        return next(option for option, name in offered.items() if name and name not in present)
    if re.search("largest|most extensive", text):
        return max((o for o in offered if offered[o]), key=lambda o: measured[offered[o]].fraction)
    if re.search("present|which finding does", text):
        return next(option for option, name in offered.items() if name in present)
    if re.search("what does this slide|what is on the slide", text):
        return "only benign tissue" if plan.tumour is None else "a malignant tumour"
    if re.search("type|which tumour|diagnosis", text):
        return next(option for option in question.options if str(plan.tumour) in _read(TYPE_WORDS, option))
    if "grade" in text:
        return f"grade {plan.grade}"
    if re.search("pattern|arranged", text):
        return next(option for option in question.options if plan.pattern in _read(PATTERN_WORDS, option))
    return None


def test_answers_are_right_and_nothing_gives_them_away(cases):
    questions = []
    for plan, measured, _ in cases:
        of_slide = write_questions(plan, measured, WORLD.rng("questions", plan.slide_id))
        assert of_slide == write_questions(plan, measured, WORLD.rng("questions", plan.slide_id))
        for q in of_slide:
            assert len(set(q.options)) == 4
            truth = _truth(q, plan, measured)
            assert q.answer_text == (truth or CANNOT_TELL), q
            assert q.answerable == (truth is not None)
            assert q.evidence is None or measured[q.evidence].present
        questions += of_slide
    letters = Counter(q.answer for q in questions)
    assert all(letters[x] / len(questions) == pytest.approx(0.25, abs=0.03) for x in "ABCD")
    offered = [q for q in questions if CANNOT_TELL in q.options]
    assert np.mean([not q.answerable for q in offered]) == pytest.approx(0.25, abs=0.05)


def test_yes_or_no_questions_are_answered_as_painted(cases):
    """Names, yes and no are looked for in the words; one question of each kind a slide, where it has findings."""
    names = {name: concept for concept in FINDINGS for name in NAMES[concept].wording.seen}
    answers = Counter()
    for plan, measured, _ in cases:
        questions = write_presence_questions(plan, measured, WORLD.rng("presence questions", plan.slide_id))
        assert [one.present for one in questions] in ([True, False], [False])
        for one in questions:
            named = {names[name] for name in names if re.search(rf"\b{name}\b", one.question)}
            assert one.concept in named
            there = one.concept in measured and measured[one.concept].present
            assert one.present == there == one.answer.startswith("Yes, ") == one.answer.endswith("present.")
            assert one.question.endswith("?")
            assert not re.search(r"\b(?:Is there|Is) \w*(?:pearls|pools|cells|spaces|glands)\b", one.question)
            answers[one.present] += 1
    assert min(answers.values()) > 300


def test_a_world_describes_itself():
    text = WORLD.describe()
    assert "seed 3" in text
    assert "400" in text
    assert replace(WORLD, num_cases=7).describe() != text
