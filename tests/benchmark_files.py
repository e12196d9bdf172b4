"""Small files for benchmarks: questions, captions, labels and features of a few made-up slides."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from pathflip.features import write_features
from tiny_assistant import save_aligned, tiny_slide

ORGANS = ("lung", "breast", "skin")


def write_csv(path: Path, rows: list[dict]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def slides(num: int = 6) -> list[str]:
    return [f"s{i:02d}" for i in range(num)]


def save_features(folder: Path, names: list[str]) -> Path:
    """Random features of the right names."""
    for i, name in enumerate(names):
        write_features(folder / f"{name}.h5", tiny_slide(name, seed=i, num=20))
    return folder


def save_telling_features(folder: Path, labels: dict[str, int], strength: float = 3.0) -> Path:
    """Features whose mean tells the class: what a linear model on them must find."""
    for i, (name, label) in enumerate(labels.items()):
        slide = tiny_slide(name, seed=i, num=20)
        shift = np.zeros(slide.features.shape[1], np.float32)
        shift[label] = strength
        write_features(folder / f"{name}.h5", replace(slide, features=slide.features + shift))
    return folder


def question_rows(num: int = 12) -> list[dict]:
    """SlideBench's columns; two questions a slide."""
    rows = []
    for i in range(num):
        rows.append(
            {
                "ID": i + 1, "Slide": f"datasets/h5_files/s{i // 2:02d}.h5", "Tumor": "LUAD",
                "Broad Category": ("Microscopy", "Diagnosis")[i % 2], "Narrow Category": ("Cells", "Grading")[i % 2],
                "Question": f"What is seen, number {i}?", "A": "glands", "B": "necrosis", "C": "mucin", "D": "keratin",
                "Answer": "ABCD"[i % 4],
            }
        )  # fmt: skip
    return rows


def answer_rows(questions: list[dict], right: int) -> list[dict]:
    """SlideChat's dump: the questions with a column Output, the first ``right`` of them answered rightly."""
    letters = "ABCD"
    return [
        {**row, "Output": f"The answer is {row['Answer'] if i < right else letters[letters.index(row['Answer']) - 1]}."}
        for i, row in enumerate(questions)
    ]


def aligned(folder: Path) -> Path:
    return save_aligned(folder)
