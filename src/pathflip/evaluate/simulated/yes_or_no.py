"""Yes-or-no questions asked openly ("Is there necrosis?") against the painted truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from pathflip.assistant import (
    UNDECIDED,
    LoadedAssistant,
    build_prompt,
    generate_many,
    prepare_slide,
    refusal_logits,
    verdicts,
)
from pathflip.data.splits import read_split_rows
from pathflip.evaluate.estimates import Estimate, Measure, estimate_all, mean_of
from pathflip.evaluate.yes_or_no_calibration import PresenceQuestion
from pathflip.features import read_features
from pathflip.io.tables import read_table
from pathflip.simulate.question_writer import ask_presence
from pathflip.simulate.world import FINDINGS
from pathflip.text.refusals import CANNOT_TELL

__all__ = ["OpenAnswer", "ask_yes_or_no", "questions_on_every_finding", "yes_or_no_estimates"]

ALWAYS_ASKED = ("Is there necrosis?", "necrosis")
"""Asked of every slide, beside the cohort's own questions: the finding, a column of the cohort's labels."""
CHANCE = 0.5


@dataclass(frozen=True)
class OpenAnswer:
    """One question, whether the finding is there, and what the assistant said."""

    slide_id: str
    patient: str
    question: str
    present: bool
    text: str

    @property
    def withheld(self) -> bool:
        """Whether it said neither yes nor no."""
        return self.text in (CANNOT_TELL, UNDECIDED)

    @property
    def right(self) -> bool:
        """Whether it said yes where the finding is, no where it is not; a refusal is neither."""
        return self.text.lower().startswith("yes" if self.present else "no,") or (
            not self.present and self.text.lower().rstrip(".") == "no"
        )


def questions_on_every_finding(cohort: Path, split: str) -> list[PresenceQuestion]:
    """Whether each finding is there, asked of every slide of a split, in wordings that take turns."""
    rows = read_split_rows(cohort / "splits.csv")
    labels = [row for row in read_table(cohort / "labels.csv") if rows[row["slide"]]["split"] == split]
    return [
        PresenceQuestion(row["slide"], str(row["patient"]), ask_presence(finding, number + place), row[finding] == "1")
        for number, row in enumerate(labels)
        for place, finding in enumerate(FINDINGS)
    ]


def ask_yes_or_no(
    assistant: LoadedAssistant, cohort: Path, files: Mapping[str, Path], split: str = "test"
) -> list[OpenAnswer]:
    """Ask the cohort's yes-or-no questions of one split, and of each of its slides whether there is necrosis.

    What is decided and what withheld is as in :func:`~pathflip.assistant.ask`; the words that follow a decided yes or
    no are not written.

    Args:
        assistant: who is asked. cohort: written by ``pathflip simulate``. files: feature file of every slide.
    """
    rows = read_split_rows(cohort / "splits.csv")
    labels = {row["slide"]: row for row in read_table(cohort / "labels.csv") if rows[row["slide"]]["split"] == split}
    asked = [
        (row["slide"], str(row["question"]), bool(row["present"]))
        for row in read_table(cohort / "presence_questions.jsonl")
        if row["slide"] in labels
    ]
    question, finding = ALWAYS_ASKED
    asked += [(slide, question, row[finding] == "1") for slide, row in labels.items()]
    answers: list[OpenAnswer] = []
    for slide_id, own in groupby(sorted(asked), key=lambda one: one[0]):
        view, questions = prepare_slide(assistant.aligned, read_features(files[slide_id])), list(own)
        prompts = [build_prompt(assistant, text, view) for _, text, _ in questions]
        decided = verdicts(assistant, prompts)
        openly = [prompt for prompt, verdict in zip(prompts, decided, strict=True) if verdict is None]
        written = iter(generate_many(assistant, openly, max_new_tokens=16))
        refusals = refusal_logits(assistant, prompts)
        for (_, text, present), refusal, verdict in zip(questions, refusals, decided, strict=True):
            said = next(written) if verdict is None else UNDECIDED if verdict.side == "undecided" else verdict.side
            refused = assistant.calibration.refusal(refusal) >= assistant.calibration.refuse_above
            said = CANNOT_TELL if refused else said
            answers.append(OpenAnswer(slide_id, str(labels[slide_id]["patient"]), text, present, said))
    return answers


def yes_or_no_estimates(answers: Sequence[OpenAnswer], num: int) -> dict[str, Estimate]:
    """How often yes is said where the finding is, and no where it is not; over all questions, and for necrosis.

    Args:
        answers: from :func:`ask_yes_or_no`. num: bootstrap resamples of patients.
    """
    question, finding = ALWAYS_ASKED
    groups = {
        "a finding": [one for one in answers if one.question != question],
        finding: [one for one in answers if one.question == question],
    }
    out: dict[str, Estimate] = {}
    for what, group in groups.items():
        for present, words in ((True, f"{what} that is there: yes"), (False, f"{what} that is not there: no")):
            own = [one for one in group if one.present == present]
            if own:
                right = np.array([float(one.right) for one in own])
                withheld = sum(one.withheld for one in own)
                note = f"{int(right.sum())} of {len(own)}" + (f", {withheld} undecided" if withheld else "")
                measure = Measure(words, mean_of(right), CHANCE, note)
                patients = np.array([one.patient for one in own])
                out[words] = estimate_all({"assistant": [measure]}, patients, "assistant", num=num)[words]["assistant"]
    return out
