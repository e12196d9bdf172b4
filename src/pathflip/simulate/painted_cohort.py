"""The job behind ``pathflip simulate``: plan, paint, write and describe a whole cohort."""

import csv
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError
from pathflip.geometry import SlideInfo
from pathflip.io.files import write_json, write_text
from pathflip.processes import follow_parent
from pathflip.simulate.case_reports import PaintedSlide, write_case_report
from pathflip.simulate.cases import plan_cases
from pathflip.simulate.paint import paint
from pathflip.simulate.question_writer import PaintedQuestion, write_presence_questions, write_questions
from pathflip.simulate.report_writer import PaintedSubCaption, write_report
from pathflip.simulate.truth import evidence_boxes, measure, write_labels, write_polygons
from pathflip.simulate.world import CONCEPTS, FINDINGS, LABELS, CasePlan, Measured, World
from pathflip.simulate.write import write_slide

__all__ = ["Progress", "paint_case", "run_plans", "simulate", "write_case"]

FORMAT = 1
"""Version of what is painted and written; folders of another version are not continued."""


@runtime_checkable
class Progress(Protocol):
    """A function that is called after every slide with how many are done."""

    def __call__(self, done: int, total: int, /) -> None:
        """``done`` of ``total`` slides are complete."""
        ...


def simulate(world: World, out: str | Path, *, num_workers: int = 2, progress: Progress | None = None) -> None:
    """Write the cohort ``world`` to ``out``: slides, reports, labels, splits, truth, questions.

    ```text
    world.json          the world and the version of the painter
    slides/ID.tif       pyramidal JPEG TIFF with resolution tags
    truth/ID.png        label map, class ids of world.LABELS
    truth/ID.geojson    its outlines;  truth/ID.json  plan, measured extents, report
    captions.jsonl      slide, patient, text (test slides also: paraphrase)
    labels.csv          slide, patient, split, tumour, grade, pattern, benign, one 0/1 column a finding
    splits.csv          slide, patient, split
    questions.jsonl     multiple-choice questions with their evidence regions
    presence_questions.jsonl  yes-or-no questions, answered in words
    reports.csv         of a world with hospital's reports: case, patient, slide, part, stain, report; a row a slide
    cases.jsonl         their truth: what every sentence states, and which slides of the case show it
    ```

    The reports of cases can be added to a folder painted without them.

    The same world gives the same bytes, whatever ``num_workers`` (processes; 1 paints in this one). Slides that are
    complete are kept, so an interrupted run continues.

    Raises:
        ConfigError: ``out`` holds another world.
    """
    run_plans(world, plan_cases(world), out, paint_case, num_workers, progress)


def run_plans(
    world: World,
    plans: list[CasePlan],
    out: str | Path,
    make: Callable[[CasePlan, World, Path], None],
    num_workers: int,
    progress: Progress | None,
) -> None:
    """Make every slide of a cohort that is not complete yet, and the tables over all of them.

    Args:
        make: makes one slide and writes all about it (:func:`write_case`); a function other processes can import.

    Raises:
        ConfigError: ``out`` holds another world.
    """
    out = Path(out)
    _claim(world, out)
    open_plans = [plan for plan in plans if not _is_complete(plan, out)]
    if progress is not None:
        progress(len(plans) - len(open_plans), len(plans))
    for count, _ in enumerate(_made(open_plans, world, out, make, num_workers), start=1):
        if progress is not None:
            progress(len(plans) - len(open_plans) + count, len(plans))
    records = [_read_record(out, plan.slide_id) for plan in plans]
    _summarise(records, out)
    _write_presence_questions(world, plans, records, out)
    if world.reports == "hospital":
        _write_cases(world, records, out)


def _claim(world: World, out: Path) -> None:
    """Write world.json, or check that the one there is the same."""
    wanted = {"format": FORMAT, **{key: value for key, value in asdict(world).items() if key != "reports"}}
    path = out / "world.json"
    if not path.exists():
        write_json(path, wanted)
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored != wanted:
        different = [
            f"{key} {stored.get(key)!r} (asked: {wanted.get(key)!r})"
            for key in sorted({*stored, *wanted})
            if stored.get(key) != wanted.get(key)
        ]
        raise ConfigError(
            f"'{out}' already holds another world: {', '.join(different)}; give an empty folder or the same world"
        )


def _made(
    plans: list[CasePlan],
    world: World,
    out: Path,
    make: Callable[[CasePlan, World, Path], None],
    num_workers: int,
) -> Iterator[None]:
    """Make the slides of the plans, in this process or in several; yields after each."""
    if num_workers <= 1 or len(plans) <= 1:
        for plan in plans:
            make(plan, world, out)
            yield None
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
        running = {pool.submit(make, plan, world, out) for plan in plans}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for job in finished:
                    yield job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    follow_parent()
    cv2.setNumThreads(1)


def paint_case(plan: CasePlan, world: World, out: Path) -> None:
    """Paint one slide and write everything about it."""
    painting = paint(plan, world)
    write_case(plan, world, out, painting.rgb, painting.labels)


def write_case(plan: CasePlan, world: World, out: Path, rgb: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Write a slide, its truth, report and questions; the record comes last and marks the slide complete."""
    measured = measure(labels)
    report = write_report(plan, measured, world.rng("report", plan.slide_id))
    questions = write_questions(plan, measured, world.rng("questions", plan.slide_id))
    info = SlideInfo(plan.slide_id, (world.slide_px, world.slide_px), world.mpp)
    write_slide(_slide_path(out, plan.slide_id), rgb, world.mpp)
    write_labels(out / "truth" / f"{plan.slide_id}.png", labels)
    write_polygons(out / "truth" / f"{plan.slide_id}.geojson", labels, info, world.label_px)
    record = {
        "slide": plan.slide_id,
        "plan": asdict(plan),
        "measured": {concept: asdict(measures) for concept, measures in measured.items()},
        "report": asdict(report),
        "questions": [_question_row(question, labels, world.label_px) for question in questions],
        "labels": list(LABELS),
        "concepts": {concept: list(labels) for concept, labels in CONCEPTS.items()},
        "downsample": world.label_px,
        "mpp": world.mpp,
    }
    write_json(_record_path(out, plan.slide_id), record)


def _slide_path(out: Path, slide_id: str) -> Path:
    return out / "slides" / f"{slide_id}.tif"


def _record_path(out: Path, slide_id: str) -> Path:
    return out / "truth" / f"{slide_id}.json"


def _read_record(out: Path, slide_id: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_record_path(out, slide_id).read_text(encoding="utf-8"))
    return record


def _is_complete(plan: CasePlan, out: Path) -> bool:
    """Whether the record and what it was written after are there."""
    truth = out / "truth"
    parts = (_slide_path(out, plan.slide_id), truth / f"{plan.slide_id}.png", truth / f"{plan.slide_id}.geojson")
    return _record_path(out, plan.slide_id).exists() and all(part.exists() for part in parts)


def _question_row(question: PaintedQuestion, labels: np.ndarray, label_px: int) -> dict[str, Any]:
    row = asdict(question)
    row["slide"] = row.pop("slide_id")
    boxes = evidence_boxes(labels, question.evidence, label_px) if question.evidence else []
    row["evidence_boxes"] = [[box.x, box.y, box.width, box.height] for box in boxes]
    return row


def _summarise(records: list[dict[str, Any]], out: Path) -> None:
    """The tables over all slides, from the records."""
    captions, questions = [], []
    for record in records:
        plan, report = record["plan"], record["report"]
        row = {"slide": record["slide"], "patient": plan["patient"], "text": report["text"]}
        captions.append(row | ({"paraphrase": report["paraphrase"]} if report["paraphrase"] else {}))
        questions += record["questions"]
    write_text(out / "captions.jsonl", _lines(captions))
    write_text(out / "questions.jsonl", _lines(questions))
    head = ("slide", "patient", "split")
    write_text(out / "splits.csv", _table(head, [_label_row(record) for record in records]))
    columns = (*head, "tumour", "grade", "pattern", "benign", *FINDINGS)
    write_text(out / "labels.csv", _table(columns, [_label_row(record) for record in records]))


def _write_presence_questions(world: World, plans: list[CasePlan], records: list[dict[str, Any]], out: Path) -> None:
    rows = []
    for plan, record in zip(plans, records, strict=True):
        rng = world.rng("presence questions", plan.slide_id)
        rows += [asdict(question) for question in write_presence_questions(plan, _measured(record), rng)]
    write_text(out / "presence_questions.jsonl", _lines([{"slide": row.pop("slide_id"), **row} for row in rows]))


def _measured(record: dict[str, Any]) -> dict[str, Measured]:
    return {concept: Measured(**values) for concept, values in record["measured"].items()}


def _write_cases(world: World, records: list[dict[str, Any]], out: Path) -> None:
    """The reports of the cases as a hospital exports them, and their truth."""
    of_patient: dict[str, list[PaintedSlide]] = {}
    for record in records:
        of_patient.setdefault(record["plan"]["patient"], []).append(_painted_slide(record))
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for patient, slides in sorted(of_patient.items()):
        case = write_case_report(world, patient, slides)
        truth.append(asdict(case))
        for place, slide in enumerate(case.slides):
            whose = {"Accession": case.case, "Patient": patient, "Slide": f"{slide.slide}.tif", "Part": slide.part}
            rows.append({**whose, "Stain": "HE", "Report": "" if place else case.text})
    write_text(out / "reports.csv", _table(tuple(rows[0]), rows, delimiter=";"))
    write_text(out / "cases.jsonl", _lines(truth))


def _painted_slide(record: dict[str, Any]) -> PaintedSlide:
    report = record["report"]
    rows = report["sub_captions"] if "sub_captions" in report else report["statements"]  # its name before
    sub_captions = (PaintedSubCaption(**{**row, "others": tuple(row["others"])}) for row in rows)
    return PaintedSlide(record["slide"], _measured(record), tuple(sub_captions))


def _label_row(record: dict[str, Any]) -> dict[str, Any]:
    plan, measured = record["plan"], record["measured"]
    return {
        "slide": record["slide"],
        "patient": plan["patient"],
        "split": plan["split"],
        "tumour": plan["tumour"] or "",
        "grade": plan["grade"] or "",
        "pattern": plan["pattern"] or "",
        "benign": int(plan["tumour"] is None),
        **{name: int(measured[name]["present"]) for name in FINDINGS},
    }


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
