"""What the demo does with a painted cohort and its features: train, ask, measure. Each function is a job."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.assistant import LoadedAssistant, YesOrNoCalibration, load_assistant
from pathflip.data.instruct_examples import InstructExample, read_examples
from pathflip.demo.jobs import Done, Job, run_jobs
from pathflip.errors import CaptionError
from pathflip.evaluate.answering import answer_questions, calibrate_assistant
from pathflip.evaluate.predictions import VQAPrediction
from pathflip.evaluate.simulated.answered_questions import (
    AssistantStudy,
    CaptionExample,
    caption_examples,
    cohort_questions,
    questions_to_explain,
    study_assistant,
)
from pathflip.evaluate.simulated.explained_answers import Faithfulness, explain_answers
from pathflip.evaluate.simulated.measures import Cohort, CohortScores, read_cohort, score_model
from pathflip.evaluate.simulated.upper_bound import supervised_upper_bound
from pathflip.evaluate.simulated.verified_reports import CohortVerification, verify_cohort
from pathflip.evaluate.simulated.yes_or_no import OpenAnswer, ask_yes_or_no, questions_on_every_finding
from pathflip.evaluate.yes_or_no_calibration import calibrate_yes_or_no
from pathflip.features.devices import device_named, take_device
from pathflip.inference import load
from pathflip.recipes.align import AlignRecipe, align_base, align_published_repaired, clip_mean
from pathflip.recipes.instruct import InstructRecipe, instruct_small_stage1, instruct_small_stage2
from pathflip.recipes.language import LanguageRecipe, language_small
from pathflip.recipes.settings import with_settings
from pathflip.train import read_metrics
from pathflip.train.align_run import read_split, train_align
from pathflip.train.instruct_run import split_examples, train_instruct
from pathflip.train.language_run import train_language
from pathflip.types import Caption

__all__ = ["BASELINE", "DESCRIPTIONS", "REFERENCE", "Demo", "Measured", "train_and_measure"]

REFERENCE = "PathFLIP"
BASELINE = "mean-pool CLIP"
DESCRIPTIONS = {
    "PathFLIP": "this project's recipe (align_base): text meets patches, gates and margins, late interaction",
    "mean-pool CLIP": "one vector a slide, the mean over its patches, against one a caption",
    "published, repaired": "the paper's model at this size with what makes it stall mended (docs/published.md): "
    "initialisation, text pooling, standardised features, learned temperature and bias, patches under its region head; "
    "110 of its recipe's 240 steps, for the demo's time (all of them, on five worlds: docs/results.md)",
}
ASSISTANT, TEXT_ONLY, LANGUAGE = "assistant", "assistant_text_only", "language"
NOTE = (
    "Trained on painted slides: what it says about real tissue means nothing. Research software, not a medical device."
)
LONG = ("published, repaired",)  # trained while the assistants wait for PathFLIP
SHORTENED = ("train.steps=110", "train.eval_every=55", "train.save_every=55")
"""Its recipe's 240 steps take a quarter more processor time than PathFLIP's 600."""


@dataclass(frozen=True)
class Demo:
    """One demo: where it lives, how long its trainings are, its seed.

    Attributes:
        steps: optimiser steps of the alignment models; None leaves the recipes as they are.
        assistant_steps: of each stage of the assistant, its text-only baseline and their language model; None as in the
            recipes, 0 leaves out assistant and verification.
        resamples: bootstrap cohorts. explained: answers whose evidence is tested. captions: those the page shows.
        device: where to train and measure: cpu, cuda, cuda:1, …; None takes a GPU if there is one.
    """

    out: Path
    seed: int = 0
    num_workers: int = 2
    steps: int | None = None
    assistant_steps: int | None = None
    resamples: int = 1000
    explained: int = 60
    captions: int = 2
    device: str | None = None

    @property
    def cohort(self) -> Path:
        """The painted cohort."""
        return self.out / "cohort"

    @property
    def features(self) -> Path:
        """Its feature files."""
        return self.out / "features_stain_texture"

    @property
    def speaks(self) -> bool:
        """Whether an assistant is part of the demo."""
        return self.assistant_steps != 0

    def files(self) -> dict[str, Path]:
        """Feature file of every slide."""
        return {file.stem: file for file in sorted(self.features.glob("*.h5"))}

    def run(self, name: str, stage: int = 2) -> Path:
        """Folder of a training; of an assistant's first stage with ``stage`` 1."""
        return self.out / "runs" / (name if stage == 2 else f"{name}_stage{stage}")

    def recipes(self) -> dict[str, AlignRecipe]:
        """The recipes of PathFLIP and of the models it must beat."""
        made = dict(zip(DESCRIPTIONS, (align_base(), clip_mean(), align_published_repaired()), strict=True))
        settings = self._everywhere()
        if self.steps is not None:
            # over so few steps a model still climbs, and the mean of its weights would lag behind
            settings += [f"train.steps={self.steps}", "train.batch_size=16", "train.optim.warmup_steps=5"]
            settings += ["train.average_last=0"]
        return {name: with_settings(r, [*(SHORTENED if name in LONG else []), *settings]) for name, r in made.items()}

    def language(self) -> LanguageRecipe:
        """The small language model that assistant and text-only baseline start from."""
        return with_settings(language_small(), self._speaking())

    def stages(self, text_only: bool) -> tuple[InstructRecipe, InstructRecipe]:
        """Both stages of the small assistant, or of the same language model without the slide."""
        shown = f"assistant.text_only={str(text_only).lower()}"
        one, two = (with_settings(make(), self._speaking()) for make in (instruct_small_stage1, instruct_small_stage2))
        return with_settings(one, [shown]), two

    def _speaking(self) -> list[str]:
        steps = [] if self.assistant_steps is None else [f"train.steps={self.assistant_steps}"]
        return [*self._everywhere(), *steps]

    def _everywhere(self) -> list[str]:
        """Settings of every training. Which GPU is taken in the process that trains (:func:`_begin`)."""
        on_cpu = self.device is not None and device_named(self.device).type == "cpu"
        return [f"train.seed={self.seed}", *(["train.device=cpu"] if on_cpu else [])]


@dataclass(frozen=True)
class Measured:
    """All that was measured on patients no model has seen."""

    scores: dict[str, CohortScores]
    upper_bounds: dict[str, float]
    answers: AssistantStudy | None = None
    verification: CohortVerification | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Of every job: trainings by the model's name, and measuring."""


def train_and_measure(demo: Demo, progress: Callable[..., None]) -> Measured:
    """Train everything, and measure it on the test patients. What is there already is not trained again.

    One graph of jobs: while the assistants wait for PathFLIP, what is compared with it is trained, and what is trained
    is measured while something else still trains. Long jobs stand first, so that none ends up alone on one processor.
    """
    recipes = demo.recipes()
    jobs = [Job(REFERENCE, train_one, (demo, recipes[REFERENCE]))]
    totals = {demo.run(recipe.name): recipe.train.steps for recipe in recipes.values()}
    if demo.speaks:
        jobs.append(Job(LANGUAGE, train_words, (demo,)))
        jobs += [
            Job(name, train_assistant, (demo, name == TEXT_ONLY), after=(REFERENCE, LANGUAGE))
            for name in (ASSISTANT, TEXT_ONLY)
        ]
        stages = {name: demo.stages(text_only=name == TEXT_ONLY) for name in (ASSISTANT, TEXT_ONLY)}
        totals |= {demo.run(name, i): r.train.steps for name, rs in stages.items() for i, r in enumerate(rs, 1)}
        totals[demo.run(LANGUAGE)] = demo.language().train.steps
    others = sorted((name for name in recipes if name != REFERENCE), key=lambda name: name not in LONG)
    jobs += [Job(name, train_one, (demo, recipes[name])) for name in others]
    jobs += _measuring(demo, recipes)

    def tick() -> None:
        progress(sum(_last_step(run / "metrics.jsonl") for run in totals), sum(totals.values()), "steps")

    done = run_jobs(jobs, demo.num_workers, tick)
    return Measured(
        scores={name: done[_scores(name)].result for name in recipes},
        upper_bounds=done["upper_bound"].result,
        **(_spoken(demo, done) if demo.speaks else {}),
        seconds={name: job.seconds for name, job in done.items()},
    )


def _measuring(demo: Demo, recipes: Mapping[str, AlignRecipe]) -> list[Job]:
    jobs = [Job("upper_bound", upper_bound, (demo,))]
    jobs += [
        Job(_scores(name), score_one, (demo, name, recipe.name), after=(name,)) for name, recipe in recipes.items()
    ]
    if demo.speaks:
        jobs += [
            Job("answers", answer_all, (demo, ASSISTANT), after=(ASSISTANT,)),
            Job("explained", explain_some, (demo,), after=(ASSISTANT,)),
            Job("yes_or_no", answer_openly, (demo,), after=(ASSISTANT,)),
            Job("text_only", answer_all, (demo, TEXT_ONLY), after=(TEXT_ONLY,)),
            # It writes its calibration beside PathFLIP's weights, which the assistants copy when they are saved.
            Job("verification", verify, (demo,), after=(ASSISTANT, TEXT_ONLY)),
        ]
    return jobs


def _scores(name: str) -> str:
    return f"scores of {name}"


def _spoken(demo: Demo, done: Mapping[str, Done]) -> dict[str, Any]:
    explained, captions = done["explained"].result
    study = study_assistant(
        demo.cohort,
        done["answers"].result,
        done["text_only"].result,
        explained,
        load_assistant(demo.run(ASSISTANT), demo.device).calibration,
        captions,
        done["yes_or_no"].result,
        num=demo.resamples,
    )
    return {"answers": study, "verification": done["verification"].result}


# ------------------------------------------------------------------------------------------------- jobs


def train_one(demo: Demo, recipe: AlignRecipe) -> None:
    """One alignment model."""
    _begin(demo, notes=recipe.name == demo.recipes()[REFERENCE].name)
    parts = _parts(demo)
    train_align(
        recipe,
        *parts["train"],
        demo.run(recipe.name),
        val_files=parts["val"][0],
        val_captions=parts["val"][1],
        store=demo.out / "packed",
        resume=True,
        note=NOTE,
    )


def train_words(demo: Demo) -> None:
    """A language model that has read what is said of the training patients."""
    _begin(demo)
    train_language(demo.language(), _examples(demo)["train"], demo.run(LANGUAGE), resume=True, note=NOTE)


def train_assistant(demo: Demo, text_only: bool) -> None:
    """Both stages of the assistant (or of its text-only baseline), then its calibration on the validation patients."""
    _begin(demo)
    examples, files, name = _examples(demo), list(demo.files().values()), TEXT_ONLY if text_only else ASSISTANT
    first, run = demo.run(name, 1), demo.run(name)
    one, two = demo.stages(text_only)
    shared: dict[str, Any] = {"resume": True, "note": NOTE}
    aligned, words = demo.run(demo.recipes()[REFERENCE].name), demo.run(LANGUAGE) / "last"
    train_instruct(one, examples["train"], files, first, aligned=aligned, language_model=words, **shared)
    train_instruct(two, examples["train"], files, run, start=first, val_examples=examples["val"], **shared)
    if not text_only:
        questions, _ = cohort_questions(demo.cohort, "val")
        loaded = load_assistant(run, demo.device)
        assert loaded.path is not None
        fitted = calibrate_assistant(loaded, questions, demo.files(), "the validation patients' questions")
        fitted.model_copy(update={"yes_or_no": _yes_or_no(demo, loaded)}).write(loaded.path)


def _yes_or_no(demo: Demo, assistant: LoadedAssistant) -> YesOrNoCalibration | None:
    """Its thresholds for yes and no, where there are validation patients enough."""
    questions = questions_on_every_finding(demo.cohort, "val")
    try:
        return calibrate_yes_or_no(assistant, questions, demo.files(), "validation patients, asked for every finding")
    except CaptionError as error:  # the quick world
        warnings.warn(f"no threshold for yes and no: {error}", stacklevel=2)
        return None


def score_one(demo: Demo, name: str, run: str) -> CohortScores:
    """One alignment model on the test patients."""
    return score_model(name, load(demo.run(run), demo.device), _cohort(demo, "test"))


def upper_bound(demo: Demo) -> dict[str, float]:
    """What a classifier trained on the truth reaches."""
    return supervised_upper_bound(_cohort(demo, "train"), _cohort(demo, "test"))


def answer_all(demo: Demo, name: str) -> list[VQAPrediction]:
    """All questions about the test patients."""
    questions, _ = cohort_questions(demo.cohort, "test")
    return answer_questions(load_assistant(demo.run(name), demo.device), questions, demo.files())


def answer_openly(demo: Demo) -> list[OpenAnswer]:
    """Yes-or-no questions about the test patients, answered in words."""
    return ask_yes_or_no(load_assistant(demo.run(ASSISTANT), demo.device), demo.cohort, demo.files())


def explain_some(demo: Demo) -> tuple[Faithfulness, list[CaptionExample]]:
    """Some answers with their evidence tested, and some captions."""
    assistant = load_assistant(demo.run(ASSISTANT), demo.device)
    questions, lines = cohort_questions(demo.cohort, "test")
    chosen = questions_to_explain(questions, lines, demo.explained)
    concepts = {one.question_id: str(lines[one.question_id]["evidence"]) for one in chosen}
    rng = np.random.default_rng(demo.seed)
    explained = explain_answers(assistant, chosen, demo.files(), demo.cohort, concepts, rng)
    slides = sorted({one.slide_id for one in questions})
    shown = slides[:: max(1, len(slides) // demo.captions)][: demo.captions]
    return explained, caption_examples(assistant, demo.cohort, demo.files(), shown)


def verify(demo: Demo) -> CohortVerification:
    """Reports with planted errors held against their slides."""
    model = load(demo.run(demo.recipes()[REFERENCE].name), demo.device)
    return verify_cohort(
        model, demo.cohort, demo.features, _parts(demo), out=demo.out / "verified", seed=demo.seed, num=demo.resamples
    )


def _begin(demo: Demo, notes: bool = False) -> None:
    """This process takes the GPU named, where one is. Names in the reports are noted by one training, not by all."""
    if demo.device is not None:
        take_device(demo.device)
    if not notes:
        warnings.filterwarnings("ignore", message=".*may tell who somebody is")


# Read once a process, which does several jobs: reports are split into sub-captions again for each otherwise.
@cache
def _cohort(demo: Demo, split: str) -> Cohort:
    return read_cohort(demo.cohort, demo.features, split)


@cache
def _parts(demo: Demo) -> dict[str, tuple[list[Path], list[Caption]]]:
    return read_split(list(demo.files().values()), demo.cohort / "captions.jsonl", demo.cohort / "splits.csv")


@cache
def _examples(demo: Demo) -> dict[str, list[InstructExample]]:
    """Captions and questions by split."""
    names = ("captions", "questions", "presence_questions")
    examples = [one for name in names for one in read_examples(demo.cohort / f"{name}.jsonl")]
    return split_examples(examples, demo.cohort / "splits.csv")


def _last_step(log: Path) -> int:
    """The step a running training has reached, from the log it writes."""
    steps = [row["step"] for row in read_metrics(log)] if log.exists() else []
    return int(max(steps, default=0))
