"""SlideBench VQA on TCGA: multiple-choice questions in three broad and thirteen narrow categories.

Prompt: the question, then a line ``A. …`` an option; greedy decoding. Chen et al. 2024, arXiv 2410.11761. Three sets
bear the name; they are told apart by their rows.
"""

from pathflip.benchmarks.choice_questions import choice_outcome, content_rows
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published
from pathflip.benchmarks.test_sets import KnownSet, recognise
from pathflip.data.question_files import read_questions

__all__ = ["PROTOCOL", "SETS"]

NAME = "slidebench-vqa-tcga"
SETS = (
    KnownSet(1489, "SlideBench-VQA (TCGA), the 1,489-row CSV", "8a246ab9145c4e07"),
    KnownSet(1494, "SlideBench-VQA (TCGA), the released set"),
    KnownSet(3176, "SlideBench-VQA (TCGA) plus"),
    KnownSet(7827, "SlideBench-VQA (TCGA), the paper's set"),
)
_WRITTEN = "accuracy (written)"


def run(inputs: Inputs) -> Outcome:
    """Score answers to the questions of ``inputs.data``."""
    questions = read_questions(inputs.data, with_problems=True)
    test_set = recognise(inputs.data.name, content_rows(questions), SETS, inputs.other_set)
    train = read_questions(inputs.settings["train"]) if inputs.settings.get("train") else None
    return choice_outcome(NAME, questions, inputs, test_set, train=train)


PROTOCOL = Protocol(
    name=NAME,
    title="SlideBench VQA (TCGA)",
    metric="accuracy, by broad and narrow category",
    needs="SlideBench-VQA-TCGA.csv; an assistant and features, or predictions",
    run=run,
    published=(
        Published("PathFLIP", _WRITTEN, "Microscopy", 0.8611),
        Published("SlideChat", _WRITTEN, "Microscopy", 0.876),
        Published("WSI-LLaVA", _WRITTEN, "Microscopy", 0.882, "from notes"),
        Published("MLLM-HWSI", _WRITTEN, "Microscopy", 0.956, "from notes"),
    ),
    table="questions",
    source="arXiv 2410.11761",
)
