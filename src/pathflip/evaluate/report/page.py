"""One HTML page about a run: first what a pathologist wants to see, then the numbers, then what fails, then how.

The page is one file: pictures are embedded, nothing is fetched, no script runs, all text is escaped. Outlines and
interval plots are inline SVG, so they stay sharp in print. What the model *cannot* do is derived from the numbers.
"""

from pathlib import Path

from pathflip.evaluate.report.case_section import case_view
from pathflip.evaluate.report.content import ReportContent
from pathflip.evaluate.report.example_views import confusion_view, grounding_view, retrieval_view
from pathflip.evaluate.report.language_sections import answers_view, verification_view
from pathflip.evaluate.report.limits import FEW_SLIDES, NEAR_CHANCE, POINTS, by_success, finding_view, model_limits
from pathflip.evaluate.report.measure_tables import chance_rows, measure_groups, models_view, verdict_counts
from pathflip.evaluate.report.number_formats import DASH, timing_view
from pathflip.evaluate.report.pictures import color_bar
from pathflip.io.files import page_template, write_text

__all__ = ["write_report"]


def write_report(target: Path, content: ReportContent) -> None:
    """Write the page to ``target``, atomically."""
    page = page_template(Path(__file__).with_name("templates") / "report.html").render(
        content=content,
        color_bar=color_bar(),
        groundings=[grounding_view(example, content) for example in content.groundings],
        retrievals=[retrieval_view(example) for example in content.retrievals],
        case=case_view(content.case) if content.case else None,
        confusions=[confusion_view(table) for table in content.confusions],
        models=models_view(content),
        verdicts=verdict_counts(content),
        groups=measure_groups(content),
        chance_rows=chance_rows(content),
        findings=[finding_view(row) for row in by_success(content.findings)],
        limits=model_limits(content),
        timings=timing_view(content.timings),
        rules={"near_chance": NEAR_CHANCE, "points": POINTS, "few": FEW_SLIDES},
        dash=DASH,
        answers=answers_view(content.answers) if content.answers else None,
        verified=verification_view(content.verification) if content.verification else None,
    )
    write_text(target, page)
