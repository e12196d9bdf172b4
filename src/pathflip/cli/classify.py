"""Verbs that classify and retrieve: zero-shot, retrieve."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pathflip.cli.app import (
    Cases,
    Device,
    Encoding,
    Features,
    Json,
    Model,
    PartColumn,
    ReportColumn,
    SlideColumn,
    TableOut,
    app,
    check_table,
    encoded_items,
    files_in,
    finish,
    print_rows,
    say,
    unknown_words,
    write_rows,
)
from pathflip.errors import ConfigError


@app.command(name="zero-shot")
def zero_shot(
    model: Model,
    features: Features,
    classname: Annotated[
        list[str] | None, typer.Option(help="A class: NAME or NAME=SYNONYM|SYNONYM. Twice at least, or --labels.")
    ] = None,
    template: Annotated[list[str] | None, typer.Option(help="A sentence with {} for the name.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Table slide, label (and patient): the answers are scored against it.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label, where it bears another name.")] = None,
    cases: Cases = None,
    out: TableOut = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap cohorts of patients, with --labels.", min=2)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    device: Device = None,
    json: Json = False,
) -> None:
    """Classify slides by words alone; with --labels, how good that is."""
    from pathflip import inference
    from pathflip.evaluate.labels import read_labels
    from pathflip.inference.classification import TEMPLATES
    from pathflip.text.known_words import UNKNOWN_WORDS

    check_table(out, "zero-shot")
    known = read_labels(labels, label_column) if labels is not None else []
    names = {c.partition("=")[0]: (c.partition("=")[2] or c).split("|") for c in classname or ()}
    names = names or {one: [one] for one in sorted({k.label for k in known})}
    if not names:
        raise ConfigError("zero-shot: give --classname twice at least, or --labels with the classes in it")
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    loaded = inference.load(model, device)
    for slide in encoded_items(loaded, features, failures, cases, whole={one.slide_id for one in known}):
        answer = inference.zero_shot(loaded, [slide], names, template or TEMPLATES)
        chances = {c: round(float(p), 6) for c, p in zip(answer.classes, answer.probabilities[0], strict=True)}
        warnings = [f"class '{name}': {UNKNOWN_WORDS}" for name in answer.unknown]
        row = {"slide_id": slide.slide_id, "class": answer.best[0], "probabilities": chances} | slides_row(slide)
        rows.append(row | {"warnings": warnings, "caution": loaded.note})
    scores = _scored(rows, known, list(names), labels, resamples, seed) if labels is not None and rows else []
    if out is not None:
        write_rows(out, [*map(_flat, rows), *failures])
    if labels is not None and not json:
        print_rows(scores, json, _score_line)
        for note in dict.fromkeys(note for row in rows for note in row["warnings"]):
            say(f"note: {note}")
        for caution in dict.fromkeys(row["caution"] for row in rows):
            say(caution)
        finish(failures, json, str)
        return
    finish([*rows, *failures, *scores], json, lambda r: f"{r['slide_id']}: {r['class']}  {r['probabilities']}")


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in row.items() if key != "probabilities"}
    own["warnings"] = "; ".join(row["warnings"])
    return own | {f"p_{name}": p for name, p in row["probabilities"].items()}


def _scored(
    rows: list[dict[str, Any]], known: Any, names: list[str], labels: Path | None, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Every measure of the answers, and the confusion; the labels go into the rows."""
    from pathflip.evaluate.class_scores import check_classes, class_scores, confusion
    from pathflip.evaluate.labels import match_labels

    assert labels is not None
    by_slide, unlabelled, absent = match_labels(known, [row["slide_id"] for row in rows], labels.name)
    own = [(row, by_slide[row["slide_id"]]) for row in rows if row["slide_id"] in by_slide]
    for row, one in own:
        row["label"] = one.label
    for note in check_classes([one.label for _, one in own], names):
        say(f"note: {note}")
    if unlabelled or absent:
        say(f"note: scored {len(own)}; {len(unlabelled)} slides have no label, {len(absent)} labels have no slide")
    truth = np.array([names.index(one.label) for _, one in own])
    chances = np.array([list(row["probabilities"].values()) for row, _ in own])
    chances = chances / chances.sum(1, keepdims=True)
    measured = class_scores(truth, chances, [one.patient for _, one in own], num=resamples, seed=seed)
    scores: list[dict[str, Any]] = [
        {
            "measure": one.measure, "value": one.value, "low": one.low, "high": one.high, "chance": one.chance,
            "scored": len(own), "labelled": len(known), **({"baselines": one.baselines} if one.baselines else {}),
        }
        for one in measured
    ]  # fmt: skip
    table = confusion(truth, chances.argmax(1), len(names))
    return [*scores, {"measure": "confusion", "classes": names, "rows_are_truth": table.tolist()}]


def _score_line(row: Mapping[str, Any]) -> str:
    if row["measure"] == "confusion":
        width = max(map(len, row["classes"])) + 2
        head = " " * (width + 8) + "".join(f"{name:>{width}}" for name in row["classes"]) + "   (rows: truth)"
        lines = [
            f"  {name:<{width + 6}}" + "".join(f"{number:>{width}}" for number in numbers)
            for name, numbers in zip(row["classes"], row["rows_are_truth"], strict=True)
        ]
        return "\n".join([head, *lines])
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    known = "".join(f"  {name} {value:.3f}" for name, value in row.get("baselines", {}).items())
    scored = f"{row['scored']} of {row['labelled']} labelled slides"
    return f"{row['measure']:<18} {row['value']:.3f}{interval}  chance {row['chance']:.3f}{known}  ({scored})"


@app.command()
def retrieve(
    model: Model,
    features: Features,
    text: Annotated[list[str] | None, typer.Option(help="A sentence or report to find slides for.")] = None,
    captions: Annotated[
        Path | None, typer.Option(help="Captions to rank for every slide, and slides for every caption.")
    ] = None,
    k: Annotated[int, typer.Option(help="How many.")] = 5,
    cases: Cases = None,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    part_column: PartColumn = None,
    encoding: Encoding = None,
    out: TableOut = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find slides for words, and words for slides."""
    from pathflip import inference
    from pathflip.data.case_items import captions_by_part
    from pathflip.io.tables import TableOptions
    from pathflip.text import read_captions
    from pathflip.types import Case

    if bool(text) == bool(captions):
        raise ConfigError("retrieve: give either --text or --captions")
    check_table(out, "retrieve")
    rows: list[dict[str, Any]] = []
    loaded = inference.load(model, device)
    options = TableOptions(slide_column, text_column, part_column, encoding)
    known = read_captions(captions, options=options) if captions else []
    if cases is None and any(isinstance(caption, Case) for caption in known):
        cases = str(captions)
    known = captions_by_part(files_in(features, {".h5"}), known) if cases == str(captions) else known
    slides = list(encoded_items(loaded, features, rows, cases, whole=()))
    queries = [c.text for c in known] if captions else list(text or ())
    if not slides:
        finish(rows, json, _retrieval_line)
        return
    retrieval = inference.retrieve(loaded, slides, queries)
    if text:  # a text's scores are those it has when it is asked alone
        retrieval = replace(retrieval, scores=retrieval.gallery_normalised)
    for column, query in enumerate(queries):
        ranked = [{"slide_id": s, "score": round(v, 4)} for s, v in retrieval.slides_for(column, k)]
        row = {"slide_id": known[column].slide_id if known else "", "text": query, "slides": ranked}
        rows.append(row | {"warnings": unknown_words(loaded, query), "caution": loaded.note})
    if captions:
        for place, slide_id in enumerate(retrieval.slide_ids):
            ranked = [
                {"caption_of": known[i].slide_id, "score": round(v, 4)}
                | ({"unknown_words": True} if retrieval.unknown[i] else {})
                for i, v in retrieval.captions_for(place, k)
            ]
            rows.append({"slide_id": slide_id, "captions": ranked, "caution": loaded.note})
    if out is not None:
        write_rows(out, list(_ranked(rows)))
    finish(rows, json, _retrieval_line)


def _ranked(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a query and rank."""
    for row in rows:
        if "error" in row:
            yield row
        for rank, hit in enumerate(row.get("slides", ()), start=1):
            known = {"warnings": "; ".join(row["warnings"]), "caution": row["caution"]}
            yield {"query": row["text"], "caption_of": row["slide_id"], "rank": rank} | hit | known
        for rank, hit in enumerate(row.get("captions", ()), start=1):
            yield {"slide_id": row["slide_id"], "rank": rank} | hit | {"caution": row["caution"]}


def slides_row(encoded: Any) -> dict[str, Any]:
    """The slides behind a row's scores, where it is of a case."""
    slides = getattr(encoded, "slides", ())
    return {"slides_of_case": [slide.slide_id for slide in slides]} if slides else {}


def _retrieval_line(row: Mapping[str, Any]) -> str:
    if "captions" in row:
        return f"{row['slide_id']} ← captions of " + ", ".join(
            f"{c['caption_of']} ({c['score']:.2f}{', unknown words' if c.get('unknown_words') else ''})"
            for c in row["captions"]
        )
    return f"“{row['text'][:70]}” → " + ", ".join(f"{s['slide_id']} ({s['score']:.2f})" for s in row["slides"])
