"""Verbs of the assistant: ask, chat; what they share with caption."""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pathflip.cli.app import (
    Cases,
    Device,
    Encoding,
    Features,
    Json,
    QuestionColumn,
    SlideColumn,
    SlideMPP,
    app,
    check_table,
    files_in,
    files_of_items,
    finish,
    print_rows,
    progress_bar,
    say,
    unknown_words,
    write_rows,
)
from pathflip.errors import CaptionError, ConfigError, PathFLIPError

AssistantFolder = Annotated[Path, typer.Option("--assistant", help="An assistant's directory, for example runs/chat.")]
LanguageModel = Annotated[
    str | None, typer.Option(help="Where the language model lies now, if it was named in training and has moved.")
]
SlideFile = Annotated[Path | None, typer.Option(help="The slide itself, to draw the evidence on it.")]
EvidenceOut = Annotated[
    Path | None,
    typer.Option(help="Folder for evidence (QuPath annotations, pictures); or a table to write: .csv, .jsonl, …."),
]
Seed = Annotated[int, typer.Option(help="Of the draws, where --temperature is above 0.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]


@app.command()
def ask(
    assistant: AssistantFolder,
    features: Features,
    question: Annotated[
        str | None, typer.Option(help="A question; all slides given belong to one case (to several with --cases).")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of a multiple-choice question.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="Many: JSON lines or CSV with slide (or case), question, options (A, B, …)."),
    ] = None,
    cases: Cases = None,
    out: EvidenceOut = None,
    slide: SlideFile = None,
    slide_mpp: SlideMPP = None,
    language_model: LanguageModel = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    slide_column: SlideColumn = None,
    text_column: QuestionColumn = None,
    encoding: Encoding = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Ask about slides; every answer comes with the regions behind it, or says that the slide cannot tell."""
    from pathflip.assistant import Writing, load_assistant
    from pathflip.assistant import ask as answer_to
    from pathflip.io.tables import TableOptions

    if (question is None) == (questions is None):
        raise ConfigError("ask: give either --question or --questions FILE")
    check_out(out)
    loaded = load_assistant(assistant, device, language_model)
    writing = Writing(temperature=temperature, seed=seed)
    if questions is not None:
        options = TableOptions(slide_column, text_column, encoding=encoding)
        rows = list(_batch(loaded, features, questions, options, writing, cases))
    elif cases is not None:
        assert question is not None
        asked = partial(answer_to, loaded, question, options=option or (), writing=writing)
        rows = each_answer(loaded.aligned, features, cases, out, lambda views: (asked(views), {}), question)
    else:
        views = _views(loaded.aligned, features)
        assert question is not None
        answer = answer_to(loaded, question, views, option or (), writing=writing)
        row = answer_row(views[0].slide_id, answer, loaded.aligned, question=question)
        rows = [row | {"files": write_evidence(answer, views, out, slide, slide_mpp, loaded.aligned)}]
    write_answers(out, rows)
    finish(rows, json, answer_line)


def each_answer(
    aligned: Any,
    features: list[Path],
    cases: str | None,
    out: Path | None,
    answer_about: Callable[[list[Any]], tuple[Any, dict[str, Any]]],
    question: str | None = None,
) -> list[dict[str, Any]]:
    """An answer about every slide or case; one that cannot be read is a row with an error, and the rest goes on.

    ``answer_about`` gives the answer about prepared slides, and what else their row tells.
    """
    rows: list[dict[str, Any]] = []
    items = files_of_items(files_in(features, {".h5"}), cases)
    with progress_bar("answers") as advance:
        for done, (name, files) in enumerate(items, start=1):
            try:
                views = _views(aligned, list(files))
                answer, more = answer_about(views)
                row = answer_row(name if cases else views[0].slide_id, answer, aligned, question=question) | more
                of_case = {"slides_of_case": [view.slide_id for view in views]} if len(views) > 1 else {}
                rows.append(row | of_case | {"files": write_evidence(answer, views, out, None, None, aligned)})
            except PathFLIPError as error:
                rows.append({"slide_id": name, "error": str(error)})
            advance(done, len(items), name)
    return rows


@app.command()
def chat(
    assistant: AssistantFolder,
    features: Features,
    cases: Cases = None,
    case: Annotated[str | None, typer.Option(help="The case to talk about, of those of --cases.")] = None,
    language_model: LanguageModel = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    device: Device = None,
    json: Json = False,
) -> None:
    """Talk about the slides of one case; an empty line or Ctrl-D ends it."""
    from pathflip.assistant import Conversation, Writing, load_assistant

    items = dict(files_of_items(files_in(features, {".h5"}), cases))
    if case is not None and case not in items:
        raise ConfigError(f"chat: --case '{case}' is none of {', '.join(sorted(items)[:5])}; name one, with --cases")
    if case is None and cases is not None and len(items) > 1:
        raise ConfigError(f"chat: {len(items)} cases; name one with --case: {', '.join(sorted(items)[:5])}, …")
    named = case if case is not None else next(iter(items)) if cases is not None else None
    loaded = load_assistant(assistant, device, language_model)
    talk = Conversation.about(loaded, _views(loaded.aligned, features if named is None else list(items[named])))
    writing = Writing(temperature=temperature, seed=seed)
    say(f"{', '.join(slide.slide_id for slide in talk.slides)}. {loaded.aligned.note}")
    for question in _lines(sys.stdin):
        try:
            answer = talk.say(question, writing=writing, stream=None if json else _stream)
        except PathFLIPError as error:
            say(f"pathflip: {error}")
            continue
        if json:
            print_rows(
                [answer_row(talk.slides[0].slide_id, answer, loaded.aligned, question=question)], json, answer_line
            )
        else:
            print(_rest(answer), flush=True)
            for warning in unknown_words(loaded.aligned, question):
                say(f"  note: {warning}")


def _lines(source: Any) -> Iterator[str]:
    """Questions until an empty line; a prompt is shown to people, not to pipes."""
    while True:
        if source.isatty():
            print("? ", end="", file=sys.stderr, flush=True)
        line = source.readline().strip()
        if not line:
            return
        yield line


def _stream(text: str) -> None:
    print(text, end="", flush=True)


def _rest(answer: Any) -> str:
    """What follows the streamed words of an answer: a withheld answer, and the places."""
    text = answer.text if answer.abstained and answer.text != answer.generated else ""
    text += f"\n  note: {answer.note}" if answer.note else ""
    places = ", ".join(f"({e.box.x}, {e.box.y})" for e in answer.evidence)
    return text + (f"\n  evidence at {places}" if places else "")


def _batch(
    loaded: Any, features: list[Path], questions: Path, options: Any, writing: Any, cases: str | None
) -> Iterator[dict[str, Any]]:
    """Every question of a file; a bad slide or question is a row with an error, and the rest goes on."""
    from pathflip.assistant import ask as answer_to
    from pathflip.assistant import prepare_slide
    from pathflip.data.question_files import read_questions
    from pathflip.features import read_features
    from pathflip.io.slide_id import join_ids, paths_by_id

    files = paths_by_id(files_in(features, {".h5"}))
    known = read_questions(questions, labelled=False, options=options, with_problems=True)
    named = dict.fromkeys(slide for one in known for slide in one.slides)
    files |= {name: files[own] for name, own in join_ids(named, files).items()}
    of_case = dict(files_of_items(list(dict.fromkeys(files.values())), cases)) if cases else {}
    views: list[Any] = []
    shown: list[Path] = []
    with progress_bar("questions") as advance:
        for done, one in enumerate(sorted(known, key=lambda q: q.slide_id), start=1):
            try:
                if one.problem and not one.options:  # what is wrong with a key does not matter here
                    raise CaptionError(f"question '{one.question_id}': {one.problem}")
                wanted = [file for slide in one.slides for file in of_case.get(slide) or _file_of(slide, files)]
                if shown != wanted:
                    views = [prepare_slide(loaded.aligned, read_features(file)) for file in wanted]
                    shown = wanted
                answer = answer_to(loaded, one.question, views, one.options, writing=writing)
                yield answer_row(one.slide_id, answer, loaded.aligned, question=one.question)
            except PathFLIPError as error:
                yield {"slide_id": one.slide_id, "question": one.question, "error": str(error)}
            advance(done, len(known))


def _file_of(slide: str, files: Mapping[str, Path]) -> tuple[Path, ...]:
    if slide not in files:
        raise ConfigError(
            f"no feature file '{slide}.h5' among those given; if it is a case, give --cases, the table of its slides"
        )
    return (files[slide],)


def check_out(out: Path | None) -> None:
    """Refuse what cannot be written to, before any work."""
    from pathflip.io.files import check_writable
    from pathflip.io.write_tables import is_table

    if out is not None and is_table(out):
        check_table(out, "ask")
    elif out is not None:
        check_writable(out)


def write_answers(out: Path | None, rows: list[dict[str, Any]]) -> None:
    """The answers as a table, where one is named."""
    from pathflip.io.write_tables import is_table

    if out is not None and is_table(out):
        write_rows(out, [{key: value for key, value in row.items() if key != "files"} for row in rows])


def _views(aligned: Any, features: list[Path]) -> list[Any]:
    from pathflip.assistant import prepare_slide
    from pathflip.features import read_features

    return [prepare_slide(aligned, read_features(path)) for path in files_in(features, {".h5"})]


def answer_row(slide_id: str, answer: Any, aligned: Any, question: str | None = None) -> dict[str, Any]:
    """An answer as JSON can hold it."""
    from pathflip.assistant import evidence_rows

    row: dict[str, Any] = {"slide_id": slide_id}
    if question is not None:
        row |= {"question": question, "warnings": unknown_words(aligned, question)}
    row |= {"answer": answer.text, "abstained": answer.abstained, "generated": answer.generated}
    row["confidence"] = None if answer.confidence is None else round(answer.confidence, 4)
    if answer.options:
        row["options"] = list(answer.options)
        row["probabilities"] = [round(p, 4) for p in answer.probabilities]
    return {**row, "note": answer.note, "evidence": evidence_rows(answer), "caution": aligned.note}


def write_evidence(
    answer: Any, views: list[Any], out: Path | None, slide: Path | None, slide_mpp: Any, aligned: Any
) -> list[str]:
    """Evidence files of an answer, where a folder is given."""
    from pathflip.assistant import evidence_to_files
    from pathflip.io.files import path_inside
    from pathflip.io.write_tables import is_table
    from pathflip.slide import open_slide

    if out is None or is_table(out):
        return []
    thumbnail = None
    if slide is not None:
        with open_slide(slide, slide_mpp=slide_mpp) as opened:
            thumbnail = opened.thumbnail(1600)
    note = aligned.note
    return [
        file
        for view in views
        for file in evidence_to_files(
            answer, view, path_inside(out, view.slide_id), thumbnail=thumbnail if len(views) == 1 else None, note=note
        )
    ]


def answer_line(row: Mapping[str, Any]) -> str:
    """An answer for people: question, answer, probability, note, and the places behind it."""
    sure = "" if row.get("confidence") is None else f"  ({row['confidence']:.0%})"
    question = f"{row['question']}\n  " if "question" in row else ""
    places = "".join(
        f"\n    {e['score']:.2f} on {e['slide_id']} at ({e['x']}, {e['y']}), {e['width']} × {e['height']} px: "
        f"{e['text'][:60]}"
        for e in row.get("evidence", ())
    )
    note = f"\n    note: {row['note']}" if row.get("note") else ""
    return f"{row['slide_id']}: {question}{row['answer']}{sure}{note}{places}"
