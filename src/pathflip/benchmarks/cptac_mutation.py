"""CPTAC mutations: two protocols that must never stand in one table.

Zero-shot: words for mutated and wild type, one AUC a task. Supervised (Patho-Bench, arXiv 2502.06750): the 50 folds of
``k=all.tsv``, slide embeddings averaged over a case, logistic regression with C = 0.5 and balanced classes, macro
one-vs-rest AUC, mean over the folds.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pathflip.benchmarks.measured import mean_over_groups, metric_score, paired_row
from pathflip.benchmarks.prompts import TEMPLATES_22, mutation_prompts
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Score, Skipped
from pathflip.benchmarks.slide_files import encode_each, item_files, open_model, scores_of_slides
from pathflip.errors import CaptionError
from pathflip.evaluate import metrics
from pathflip.evaluate.bootstrap import bounds
from pathflip.evaluate.class_scores import auroc_ovr
from pathflip.features import read_features
from pathflip.inference import zero_shot
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import first_of, read_table
from pathflip.text.captions import PATIENT_KEYS, slides_of_row

__all__ = ["SUPERVISED", "ZERO_SHOT"]

ZERO_SHOT_NAME, SUPERVISED_NAME = "cptac-mutation-zero-shot", "cptac-mutation-supervised"
TASKS, FOLDS = 12, 50
_FOLD = re.compile(r"fold_?(\d+)$")
_POSITIVE = {"1", "1.0", "true", "yes", "mut", "mutated", "mutant", "mutation", "positive", "altered"}
_NEGATIVE = {"0", "0.0", "false", "no", "wt", "wild type", "wildtype", "wild-type", "negative", "unaltered"}
_OTHER_COLUMNS = {"slide", "slide_id", "patient", "patient_id", "case", "case_id", "cohort", "cancer", "split", "task",
                  "gene", "label", "project", "image", "file", "filename"}  # fmt: skip


@dataclass(frozen=True)
class _TaskRow:
    """One slide in one task."""

    slide: str
    case: str
    label: str
    folds: tuple[str, ...] = ()


def read_tasks(path: Path) -> dict[str, list[_TaskRow]]:
    """The slides of every task.

    Args:
        path: a folder of Patho-Bench (``COHORT/GENE_mutation/k=all.tsv``), one such file, a table with the columns
            slide, case, task and label, or one with a column of labels a gene.

    Raises:
        CaptionError: the table cannot be read or holds no task.
    """
    files = sorted(path.rglob("*.tsv")) if path.is_dir() else [path]
    if not files:
        raise CaptionError(f"'{path}': holds no .tsv; expected Patho-Bench's folders COHORT/GENE_mutation/k=all.tsv")
    tasks: dict[str, list[_TaskRow]] = {}
    for file in files:
        prefix = "/".join(file.parent.relative_to(path).parts) if path.is_dir() else ""
        for task, rows in _tasks_of(file).items():
            name = "/".join(part for part in (prefix, "" if task in prefix else task) if part)
            tasks.setdefault(name or task, []).extend(rows)
    for task, rows in tasks.items():
        _check_cases(task, rows)
    return tasks


def _check_cases(task: str, rows: Sequence[_TaskRow]) -> None:
    """Refuse a case with two labels, or in two parts of one fold: what would count is a matter of the rows' order.

    Raises:
        CaptionError: names the case.
    """
    first: dict[str, _TaskRow] = {}
    for row in rows:
        known = first.setdefault(row.case, row)
        if known.label != row.label:
            raise CaptionError(
                f"task '{task}': case '{row.case}' is '{known.label}' in one row and '{row.label}' in another; "
                "expected one label a case"
            )
        if known.folds != row.folds:
            raise CaptionError(f"task '{task}': case '{row.case}' is in different parts of a fold; expected one")


def _tasks_of(file: Path) -> dict[str, list[_TaskRow]]:
    rows = read_table(file, expected="a table of cases with labels")
    columns = [name for name in rows[0] if name not in _OTHER_COLUMNS and not _FOLD.search(name)]
    folds = [name for name in rows[0] if _FOLD.search(name)]
    tasks: dict[str, list[_TaskRow]] = {}
    long = "label" in rows[0] and ("task" in rows[0] or "gene" in rows[0])
    for number, row in enumerate(rows, 1):
        slides = slides_of_row(row)
        case = str(first_of(row, PATIENT_KEYS) or slides[0])
        fold_values = tuple(str(row.get(name) or "").strip().lower() for name in folds)
        if long:
            labels = {str(first_of(row, ("task", "gene"))): first_of(row, ("label",))}
        else:
            labels = {name: first_of(row, (name,)) for name in columns}
        for task, label in labels.items():
            if label is None:
                continue
            if not re.fullmatch(r"[\w .+-]{1,40}", str(label)):
                raise CaptionError(f"{file.name}: row {number}: label {str(label)[:40]!r} of '{task}' is no class")
            tasks.setdefault(task, []).extend(
                _TaskRow(slide_id(one), case, str(label).strip().lower(), fold_values) for one in slides
            )
    tasks = {task: rows for task, rows in tasks.items() if 2 <= len({one.label for one in rows}) <= 20}
    if not tasks:
        raise CaptionError(
            f"{file.name}: no task; expected the columns slide, case, task, label, or a column of labels a gene"
        )
    return tasks


def gene_of(task: str) -> str:
    """The gene of a task's name ("cptac_brca/PIK3CA_mutation" -> "PIK3CA")."""
    return re.sub(r"(?i)[_ ]?(mutation|mutated|mut|status)$", "", task.rpartition("/")[2]).upper()


# --- Zero-shot -------------------------------------------------------------------------------------------------------


def run_zero_shot(inputs: Inputs) -> Outcome:
    """One AUC a task, by words alone; a case's score is the mean over its slides."""
    inputs.require(ZERO_SHOT_NAME, "model")
    tasks = read_tasks(inputs.data)
    wanted = list(dict.fromkeys(one.slide for rows in tasks.values() for one in rows))
    files, skipped = item_files(ZERO_SHOT_NAME, wanted, inputs)
    model = open_model(inputs)
    genes = sorted({gene_of(task) for task in tasks})

    def score(slides: list[Any]) -> NDArray[np.floating]:
        answers = [zero_shot(model, slides, mutation_prompts(gene), TEMPLATES_22) for gene in genes]
        return np.stack([answer.probabilities[:, 0] for answer in answers], axis=1)

    names, chances = scores_of_slides(encode_each(ZERO_SHOT_NAME, model, files, inputs, skipped), score)
    row_of = {name: row for row, name in enumerate(names)}
    scores, items, of_tasks = [], [], []
    for task, rows in tasks.items():
        truth, predicted, cases = [], [], []
        for case in dict.fromkeys(one.case for one in rows if one.slide in row_of):
            own = [one for one in rows if one.case == case and one.slide in row_of]
            cases.append(case)
            truth.append(_is_mutated(task, own[0].label))
            predicted.append(float(np.mean([chances[row_of[one.slide], genes.index(gene_of(task))] for one in own])))
        of_tasks.append(_TaskScores(np.array(truth), np.array(predicted), tuple(cases)))
        scores.append(metric_score("AUROC", task, of_tasks[-1].auroc, cases, metrics.AUROC_CHANCE, inputs))
        items += [
            {"task": task, "case": c, "mutated": int(t), "score": round(p, 6)}
            for c, t, p in zip(cases, truth, predicted, strict=True)
        ]
    defined = [score.value for score in scores if np.isfinite(score.value)]
    if not defined:
        raise CaptionError(f"{ZERO_SHOT_NAME}: no task has both mutated and wild-type cases; no AUC can be given")
    mean = _mean_auc(of_tasks, inputs)
    notes = () if len(tasks) == TASKS else (f"{len(tasks)} tasks; the published protocol has {TASKS}",)
    return Outcome(
        scores=(mean, *scores), scored=len(names), total=len(wanted),
        test_set=f"{len(tasks)} tasks, {len(wanted)} slides", published_applies=len(tasks) == TASKS,
        skipped=tuple(skipped), items=tuple(items), notes=notes,
        compared_on=tuple((f"{row['task']}: {row['case']}", str(row["case"])) for row in items),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _TaskScores:
    """Truth and score of every case of a task."""

    truth: NDArray[Any]
    predicted: NDArray[Any]
    cases: tuple[str, ...]

    def auroc(self, rows: NDArray[Any]) -> float:
        """Of some cases."""
        return metrics.auroc(self.truth[rows], self.predicted[rows])


def _mean_auc(tasks: Sequence[_TaskScores], inputs: Inputs) -> Score:
    """The mean over the tasks, of patients drawn for all tasks together; tasks without both classes are left out."""
    cases = [case for task in tasks for case in task.cases]
    mean = mean_over_groups([(len(task.cases), task.auroc) for task in tasks])
    score = metric_score("mean AUROC", "all tasks", mean, cases, metrics.AUROC_CHANCE, inputs)
    return replace(score, number=len(set(cases)))


def _is_mutated(task: str, label: str) -> bool:
    if label in _POSITIVE:
        return True
    if label in _NEGATIVE:
        return False
    raise CaptionError(f"task '{task}': label '{label}', expected mutated or wild type (1 or 0)")


# --- Supervised ------------------------------------------------------------------------------------------------------


def run_supervised(inputs: Inputs) -> Outcome:
    """Logistic regression on case embeddings, fold by fold, beside the same on the mean of the encoder's features."""
    inputs.require(SUPERVISED_NAME, "model")
    tasks = read_tasks(inputs.data)
    wanted = list(dict.fromkeys(one.slide for rows in tasks.values() for one in rows))
    files, skipped = item_files(SUPERVISED_NAME, wanted, inputs)
    vectors = _slide_vectors(files, inputs, skipped)
    scores, folds, per_fold, notes, compared_on = [], [], [], [], []
    for task, rows in tasks.items():
        own = [one for one in rows if one.slide in vectors]
        if not own or not own[0].folds:
            raise CaptionError(
                f"{inputs.data.name}: task '{task}' has no columns fold_0, fold_1, …; expected k=all.tsv"
            )
        ours, plain = (_fold_aucs(own, {k: v[i] for k, v in vectors.items()}, inputs.seed) for i in (0, 1))
        if len(own[0].folds) != FOLDS:
            notes.append(f"task '{task}' has {len(own[0].folds)} folds; the published protocol has {FOLDS}")
        folds.append((ours, plain))
        scores.append(_fold_score(task, ours, plain))
        compared_on += [(f"{task}: {one.slide}", one.case) for one in own]
        per_fold.append((task, float(np.nanmean(ours)), float(np.nanstd(ours)), float(np.nanmean(plain))))
    mean = _mean_over_tasks(scores, folds, len(vectors))
    return Outcome(
        scores=(mean, *scores), scored=len(vectors), total=len(wanted),
        test_set=f"{len(tasks)} tasks, {len(wanted)} slides", published_applies=len(tasks) == TASKS,
        skipped=tuple(skipped),
        notes=(*notes, "intervals are the middle 95 % of the folds, which share patients: wider truths are possible"),
        compared_on=tuple(compared_on),
        tables={"Folds": (("task", "mean", "standard deviation", "patch mean"), tuple(per_fold))},
    )  # fmt: skip


def _slide_vectors(
    files: dict[str, tuple[Path, ...]], inputs: Inputs, skipped: list[Skipped]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Of every slide: the model's embedding, and the mean of its patch features."""
    model = open_model(inputs)
    return {
        name: (encoded.code.slide[0].float().cpu().numpy(), _patch_mean(files[name]))
        for name, encoded in encode_each(SUPERVISED_NAME, model, files, inputs, skipped)
    }


def _patch_mean(files: Sequence[Path]) -> NDArray[Any]:
    """The mean of the valid patches of a slide, or of all slides of a case together."""
    read = [read_features(file) for file in files]
    total = sum(one.features[one.valid].sum(0, dtype=np.float64) for one in read)
    mean: NDArray[Any] = total / sum(int(one.valid.sum()) for one in read)
    return mean


def _fold_aucs(rows: Sequence[_TaskRow], vectors: dict[str, NDArray[Any]], seed: int) -> NDArray[np.floating]:
    """Macro AUROC of every fold; nan where a class is missing in its training or test cases."""
    cases = list(dict.fromkeys(one.case for one in rows))
    pooled = np.stack([np.mean([vectors[one.slide] for one in rows if one.case == case], axis=0) for case in cases])
    first = {case: next(one for one in rows if one.case == case) for case in cases}
    classes = sorted({one.label for one in rows})
    truth = np.array([classes.index(first[case].label) for case in cases])
    values = []
    for fold in range(len(rows[0].folds)):
        part = np.array([first[case].folds[fold] for case in cases])
        train, test = part == "train", part == "test"
        if len(set(truth[train])) < len(classes) or len(set(truth[test])) < len(classes):
            values.append(np.nan)
            continue
        model = LogisticRegression(C=0.5, class_weight="balanced", max_iter=10_000, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            chances = model.fit(pooled[train], truth[train]).predict_proba(pooled[test])
        values.append(auroc_ovr(truth[test], chances))
    return np.array(values)


def _fold_score(task: str, ours: NDArray[np.floating], plain: NDArray[np.floating]) -> Score:
    defined = np.isfinite(ours) & np.isfinite(plain)
    if not defined.any():
        raise CaptionError(f"task '{task}': no fold has every class in its training and its test cases")
    low, high = bounds(ours[defined])
    value, level = float(ours[defined].mean()), float(plain[defined].mean())
    return Score(
        "macro AUROC", task, value, low, high, int(defined.sum()), metrics.AUROC_CHANCE,
        baselines={"patch mean": level}, paired={"patch mean": paired_row(value, level, ours, plain)}, drawn=ours,
        note=f"{int((~defined).sum())} folds lack a class" if not defined.all() else "",
    )  # fmt: skip


def _mean_over_tasks(
    scores: Sequence[Score], folds: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]], slides: int
) -> Score:
    """The mean over tasks, beside the same of the patch mean; compared fold by fold where all have as many folds."""
    value = float(np.mean([score.value for score in scores]))
    level = float(np.mean([score.baselines["patch mean"] for score in scores]))
    mean = Score("mean macro AUROC", "all tasks", value, None, None, slides, metrics.AUROC_CHANCE,
                 baselines={"patch mean": level})  # fmt: skip
    if len({len(ours) for ours, _ in folds}) > 1:
        return mean
    ours, plain = (np.mean([pair[place] for pair in folds], axis=0) for place in (0, 1))
    low, high = bounds(ours)
    return replace(
        mean, low=low, high=high, drawn=ours, paired={"patch mean": paired_row(value, level, ours, plain)}
    )  # fmt: skip


ZERO_SHOT = Protocol(
    name=ZERO_SHOT_NAME,
    title="CPTAC mutations, zero-shot prompts",
    metric="AUROC, one a task",
    needs="Patho-Bench's CPTAC folders, or a table slide, case, task, label; an alignment model and features",
    run=run_zero_shot,
    published=(Published("PathFLIP", "AUROC", "BRCA PIK3CA", 0.6575),),
    source="arXiv 2512.17621",
)
SUPERVISED = Protocol(
    name=SUPERVISED_NAME,
    title="CPTAC mutations, supervised",
    metric="macro AUROC over 50 folds, logistic regression on case embeddings",
    needs="k=all.tsv of Patho-Bench (fold_0 … fold_49); an alignment model and features",
    run=run_supervised,
    published=(Published("ABMIL, 50 folds", "macro AUROC", "BRCA PIK3CA", 0.595, "from notes"),),
    table="supervised",
    source="arXiv 2502.06750",
)
