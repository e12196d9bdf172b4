"""SlideBench retrieval: N captions against N slides, both ways.

The headline compares a slide with a caption by their own scores alone. What is standardised over the test gallery needs
the whole gallery at once, and stands apart, only where it is asked for. All patches of a slide are used, none is drawn.
Chen et al. 2024, arXiv 2410.11761; protocol of arXiv 2512.17621.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Skipped
from pathflip.benchmarks.retrieval_scores import recall_scores
from pathflip.benchmarks.slide_files import all_files, cases_at, encode_each, item_files, open_model
from pathflip.benchmarks.slidebench_captioning import SETS, caption_rows, organs_of
from pathflip.benchmarks.test_sets import recognise
from pathflip.data.case_items import captions_by_part, captions_of_cases
from pathflip.errors import FeatureError
from pathflip.inference import retrieval_scores, retrieve
from pathflip.text.captions import read_captions
from pathflip.text.known_words import UNKNOWN_WORDS
from pathflip.types import Case

__all__ = ["PROTOCOL"]

NAME = "slidebench-retrieval"
KS = (1, 5, 10)


def run(inputs: Inputs) -> Outcome:
    """Rank the captions of ``inputs.data`` for its slides, and its slides for the captions."""
    inputs.require(NAME, "model")
    captions = read_captions(inputs.data)
    test_set, published = recognise(inputs.data.name, caption_rows(inputs.data), SETS, inputs.other_set)
    if inputs.cases is None and any(isinstance(caption, Case) for caption in captions):
        inputs = replace(inputs, cases=str(inputs.data))
    elif inputs.cases is not None:
        captions = captions_of_cases(captions, cases_at(inputs))
    captions = captions_by_part(all_files(inputs), captions) if inputs.cases is not None else captions
    files, skipped = item_files(NAME, [caption.slide_id for caption in captions], inputs)
    model = open_model(inputs)
    unreadable: list[Skipped] = []
    encoded = dict(encode_each(NAME, model, files, inputs, unreadable))
    scored = [caption for caption in captions if caption.slide_id in encoded]
    if len(scored) < 2:
        raise FeatureError(f"{NAME}: {len(scored)} slides can be scored; expected two at least")
    texts, patients = [c.text for c in scored], [c.patient for c in scored]
    retrieval = retrieve(model, [encoded[c.slide_id] for c in scored], texts)
    organ_of = organs_of(inputs.data)
    organs = [organ_of.get(c.slide_id, "") for c in scored]
    matrices = {"combined": retrieval.scores, "whole slide": retrieval.whole, "sub-captions": retrieval.sub_captions}
    if inputs.gallery_normalised:
        for name, axis in (("slides", 0), ("captions", 1)):
            normalised = retrieval_scores(retrieval.whole, retrieval.sub_captions, axis=axis)
            matrices[f"gallery-normalised over {name}"] = normalised
    scores = [
        score
        for what, matrix in matrices.items()
        for score in recall_scores(
            np.asarray(matrix), texts, patients, KS, inputs, what=what, item="slide",
            organs=organs if all(organs) else None,
        )
    ]  # fmt: skip
    return Outcome(
        scores=tuple(scores),
        scored=len(scored),
        total=len(captions),
        test_set=test_set,
        published_applies=published,
        skipped=(*skipped, *unreadable),
        items=tuple({"slide": c.slide_id, "patient": c.patient} for c in scored),
        compared_on=tuple((c.slide_id, c.patient) for c in scored),
        notes=(
            "fewer slides make retrieval easier: compare only results with as many scored",
            *_unknown(retrieval.unknown),
        ),
    )


def _unknown(captions: Sequence[bool]) -> list[str]:
    """How many captions hold no word that the model learnt, in words."""
    count = sum(captions)
    return [f"{count} of {len(captions)} captions: {UNKNOWN_WORDS}"] if count else []


PROTOCOL = Protocol(
    name=NAME,
    title="SlideBench retrieval (TCGA)",
    metric="R@1, R@5, R@10, each direction by itself",
    needs="SlideBench-Caption-TCGA.csv; an alignment model and features",
    run=run,
    published=(
        Published("PathFLIP", "R@1", "slide → text", 0.1513),
        Published("PathFLIP", "R@1", "text → slide", 0.1392),
    ),
    source="arXiv 2512.17621",
)
