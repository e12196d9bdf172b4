"""Verbs about reports: calibrate, verify."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathflip.cli.app import (
    Device,
    Encoding,
    Features,
    Json,
    Model,
    PartColumn,
    ReportColumn,
    SlideColumn,
    SlideMPP,
    app,
    check_table,
    files_in,
    finish,
    print_rows,
    progress_bar,
    say,
    write_rows,
)
from pathflip.errors import CaptionError, ConfigError, FeatureError, PathFLIPError
from pathflip.io.slide_id import join_ids, paths_by_id, slide_id

if TYPE_CHECKING:
    from pathflip.inference import Aligned, EncodedCase, EncodedSlide
    from pathflip.io.tables import TableOptions
    from pathflip.types import Caption, SubCaption

CAPTION_SUFFIXES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}


@app.command()
def calibrate(
    features: Features,
    splits: Annotated[Path, typer.Option(help="CSV: slide, split (train / val / test), as in training.")],
    model: Annotated[Path | None, typer.Option(help="Alignment model, for verify; with --captions.")] = None,
    captions: Annotated[Path | None, typer.Option(help="JSON lines or CSV: slide, patient, text.")] = None,
    assistant: Annotated[Path | None, typer.Option(help="Assistant, for ask and chat; with --questions.")] = None,
    questions: Annotated[
        list[Path] | None, typer.Option(help="Questions with their answers: multiple choice, and yes or no.")
    ] = None,
    split: Annotated[str, typer.Option(help="Slides to fit on: none that the model was trained on.")] = "val",
    seed: Annotated[int, typer.Option(help="Of the made examples.")] = 0,
    safe: Annotated[
        float, typer.Option(help="Fraction that must be right beyond a threshold; else “uncertain”.")
    ] = 0.8,
    sentences: Annotated[
        Path | None,
        typer.Option(help="Also write a bank of training sentences (.json), for pathflip caption --sentences."),
    ] = None,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    part_column: PartColumn = None,
    encoding: Encoding = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Fit the probabilities of `pathflip verify`, or of an assistant's answers, on slides it has not seen."""
    from pathflip.io.tables import TableOptions

    if split == "train":
        raise ConfigError("--split: got 'train', expected val or test: on training slides a model is too sure")
    _check_bank(sentences, assistant)
    if assistant is not None and model is None and captions is None and questions:
        table = TableOptions(slide_column, text_column, encoding=encoding)
        row = _calibrate_assistant(assistant, features, questions, splits, split, table, device)
        print_rows([row], json, _answers_line)
        return
    if assistant is not None or questions or model is None or captions is None:
        raise ConfigError(
            "calibrate: give --model and --captions (for verify), or --assistant and --questions (for ask and chat)"
        )
    from pathflip.data.case_items import by_part, pair_reports
    from pathflip.evaluate.verifier_calibration import calibrate as fit
    from pathflip.inference import encode_files, load
    from pathflip.train.align_run import read_split
    from pathflip.verify import bank_row, collect_sentences, write_sentence_bank, write_verifier_calibration

    loaded = load(model, device)
    options = TableOptions(slide_column, text_column, part_column, encoding)
    parts = read_split(files_in(features, {".h5"}), captions, splits, options, asked=split)
    items = [by_part(pair_reports(*parts[split])), by_part(pair_reports(*parts["train"], allow_missing=True))]
    with progress_bar("encoding") as advance:
        slides = []
        for number, item in enumerate([*items[0], *items[1]], start=1):
            slides.append(encode_files(loaded, item.files, item.name))
            advance(number, len(items[0]) + len(items[1]), item.name)
    held, seen = slides[: len(items[0])], slides[len(items[0]) :]
    captions_of = [[item.caption for item in part] for part in items]
    calibration = fit(loaded, held, captions_of[0], captions_of[1], seen, split=split, seed=seed, safe=safe)
    path = write_verifier_calibration(loaded.checkpoint.path or model, calibration)
    row = _calibration_row(calibration, path)
    if sentences is not None:
        bank = collect_sentences(loaded, captions_of[1], seen)
        row |= {"sentences_file": str(write_sentence_bank(sentences, bank)), "bank": bank_row(bank)}
    print_rows([row], json, _calibration_line)


def _check_bank(sentences: Path | None, assistant: Path | None) -> None:
    """Refuse a bank that cannot be written, before any work."""
    from pathflip.io.files import check_target

    if sentences is None:
        return
    if assistant is not None:
        raise ConfigError("calibrate: --sentences is scored by an alignment model; give it with --model and --captions")
    if sentences.suffix.lower() != ".json":
        raise ConfigError(f"--sentences: got '{sentences}', expected a name that ends in .json")
    check_target(sentences)


def _calibrate_assistant(
    assistant: Path,
    features: list[Path],
    questions: list[Path],
    splits: Path,
    split: str,
    options: "TableOptions",
    device: str | None,
) -> dict[str, Any]:
    """Fit what the questions allow, write it beside the assistant, and return the row to print."""
    from pathflip.assistant import load_assistant
    from pathflip.evaluate.yes_or_no_calibration import calibrate_on_files

    loaded = load_assistant(assistant, device)
    files = paths_by_id(files_in(features, {".h5"}))
    fitted, lacking = calibrate_on_files(loaded, questions, files, splits, split, options)
    for line in lacking:
        say(f"not fitted: {line}")
    assert loaded.path is not None
    row: dict[str, Any] = {"file": str(fitted.write(loaded.path)), "not_fitted": lacking, **fitted.measured}
    if fitted.yes_or_no is not None:
        row["yes_or_no"] = fitted.yes_or_no.measured
    return row


def _answers_line(row: Mapping[str, Any]) -> str:
    shown = row.get("yes_or_no")
    if shown is None:
        return f"{row['file']}: fitted on {row['questions']:.0f} questions"
    return (
        f"{row['file']}: yes or no fitted on {shown['questions']:.0f} questions of {shown['patients']:.0f} patients; "
        f"where yes is right it says yes to {shown['yes_said_of_yes']:.0%} and no to {shown['no_said_of_yes']:.0%}, "
        f"where no is right no to {shown['no_said_of_no']:.0%} and yes to {shown['yes_said_of_no']:.0%}; "
        "undecided about the rest"
    )


def _calibration_row(calibration: Any, path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "file": str(path),
        "split": calibration.split,
        "slides": calibration.slides,
        "patients": calibration.patients,
        "findings": len(calibration.knowledge.lexicon.findings),
    }
    for name, fit in (("sentences", calibration.sub_captions), ("findings_present", calibration.findings)):
        if fit is not None:
            row[name] = fit.model_dump(exclude={"logistic"})
    return row


def _calibration_line(row: Mapping[str, Any]) -> str:
    fit = row["sentences"]
    low, high = ("never" if fit[side] is None else f"{fit[side]:.2f}" for side in ("low", "high"))
    return (
        f"{row['file']}: {row['slides']} slides of {row['patients']} patients ({row['split']}); calibration error "
        f"{fit['ece_before']:.3f} → {fit['ece_after']:.3f}, Brier skill over a constant "
        f"{fit['brier_skill_before']:+.3f} → {fit['brier_skill_after']:+.3f}, log-loss skill "
        f"{fit['log_loss_skill_before']:+.3f} → {fit['log_loss_skill_after']:+.3f}, AUROC {fit['auroc']:.2f} "
        "(patients left out); "
        f"contradicted up to {low}, supported from {high}; {row['findings']} findings looked for{_bank_line(row)}"
    )


def _bank_line(row: Mapping[str, Any]) -> str:
    """What the bank of sentences holds, and why other sentences are not in it."""
    if "bank" not in row:
        return ""
    bank = row["bank"]
    why = "; ".join(f"{count} {reason}" for reason, count in bank["left_out"].items())
    others = f"; of the others {why}" if why else ""
    return (
        f"\n{row['sentences_file']}: {bank['sentences']} different sentences of {bank['reports']} training reports, "
        f"scored on {bank['slides']} training slides{others}. It holds words of reports and names of slides and "
        "patients: keep it as you keep those"
    )


@app.command()
def verify(
    slide: Annotated[Path, typer.Argument(help="Feature file (.h5), slide file, or a folder of feature files.")],
    report: Annotated[Path, typer.Argument(help="Text file, or captions (JSON lines, CSV) with the slide's id.")],
    model: Model,
    features: Annotated[Path | None, typer.Option(help="The slide's feature file; else it is extracted.")] = None,
    image: Annotated[Path | None, typer.Option("--slide", help="Slide file, for pictures beside features.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder to write to; or a table, a row a sentence: .csv, .jsonl, ….")
    ] = Path("verified"),
    slide_mpp: SlideMPP = None,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    part_column: PartColumn = None,
    encoding: Encoding = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Check each sentence of a report against its slide: HTML page, JSON, QuPath annotations."""
    from pathflip.inference import EncodedSlide, load
    from pathflip.io.files import check_writable
    from pathflip.io.tables import TableOptions
    from pathflip.io.write_tables import is_table
    from pathflip.verify import read_verifier_calibration, slide_thumbnail, verify_report, write_verification

    if is_table(out):
        check_table(out, "verify")
    else:
        check_writable(out)
    loaded = load(model, device)
    calibration = read_verifier_calibration(loaded.checkpoint.path or model)
    rows: list[dict[str, Any]] = []
    reports = _Reports(report, TableOptions(slide_column, text_column, part_column, encoding))
    for encoded, picture, text in _pairs(loaded, slide, reports, features, image, slide_mpp, rows):
        try:
            verification = verify_report(loaded, encoded, text, calibration)
            files: Sequence[Path] = ()
            if not is_table(out):
                thumbnail = None
                if picture is not None and isinstance(encoded, EncodedSlide):
                    thumbnail = slide_thumbnail(picture, encoded, slide_mpp)
                files = write_verification(
                    verification, loaded, encoded, out, thumbnail=thumbnail, model_name=str(model), note=loaded.note
                )
        except PathFLIPError as error:
            rows.append({"slide_id": encoded.slide_id, "error": str(error)})
            continue
        rows.append({**verification.as_row(), "files": [str(file) for file in files]})
    if is_table(out):
        write_rows(out, list(_sentence_rows(rows)))
    finish(rows, json, _verified_line)


def _sentence_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row a sentence, and one a finding that the report may leave out; slides that failed have their error."""
    for row in rows:
        if "error" in row:
            yield {"slide_id": row["slide_id"], "error": row["error"]}
        for sentence in row.get("sentences", ()):
            yield {"slide_id": row["slide_id"], "kind": "sentence"} | dict(sentence) | {"caution": row["caution"]}
        for omission in row.get("omissions", ()):
            yield {"slide_id": row["slide_id"], "kind": "left out?"} | dict(omission) | {"caution": row["caution"]}


def _verified_line(row: Mapping[str, Any]) -> str:
    lines = [
        f"{row['slide_id']}: {next(iter(row['files']), 'in the table')}",
        *(f"  note: {note}" for note in row["notes"]),
    ]
    for sentence in row["sentences"]:
        chance = "    " if sentence["probability"] is None else f"{sentence['probability']:.2f}"
        reason = f"  ({sentence['reason']})" if sentence["reason"] else ""
        lines.append(f"  {sentence['verdict']:<12} {chance}  {sentence['sentence']}{reason}")
    lines += [f"  left out?    {o['probability']:.2f}  {o['finding']}" for o in row["omissions"]]
    return "\n".join([*lines, f"  {row['caution']}"])


def _pairs(
    model: "Aligned",
    slide: Path,
    reports: "_Reports",
    features: Path | None,
    image: Path | None,
    slide_mpp: Any,
    failures: list[dict[str, Any]],
) -> "Iterator[tuple[EncodedSlide | EncodedCase, Path | None, str | Sequence[SubCaption]]]":
    """Encoded slide or case, slide file (if any) and report text; what cannot be used becomes a row of ``failures``."""
    from pathflip.features import read_features
    from pathflip.inference import encode_slide
    from pathflip.verify.slide_features import features_of_slide

    stored = slide.suffix.lower() == ".h5" or slide.is_dir()
    if stored and features is not None:
        raise ConfigError("verify: got --features beside a feature file; name the slide file first, or leave it out")
    if stored and reports.holds_cases:
        yield from _cases(model, files_in([slide], {".h5"}), reports, failures)
        return
    files = files_in([slide], {".h5"}) if stored else [slide]
    if image is not None and len(files) > 1:
        raise ConfigError(f"verify: --slide is one slide, got {len(files)} feature files; give its own, or no --slide")
    for path in files:
        try:
            if stored or features is not None:
                slide_features = read_features(_features_of(path, path if stored or features is None else features))
            else:
                say(f"extracting features of {path.name} …")
                slide_features = features_of_slide(model, path, slide_mpp)
            text = reports.of(slide_features.slide_id)
            encoded = encode_slide(model, slide_features)
        except PathFLIPError as error:
            failures.append({"slide_id": path.stem, "error": str(error)})
            continue
        picture = image if stored else path
        if picture is not None and slide_id(picture) != slide_features.slide_id.rpartition("__")[2]:
            say(f"note: the slide is '{slide_id(picture)}', but the features are those of '{slide_features.slide_id}'")
        yield encoded, picture, text


def _features_of(slide: Path, features: Path) -> Path:
    """A feature file, or the one of this slide in a folder."""
    if not features.is_dir():
        return features
    by_id = paths_by_id(files_in([features], {".h5"}))
    own = join_ids([slide_id(slide)], by_id).get(slide_id(slide))
    if own is None:
        raise FeatureError(f"{features}: holds no features of slide '{slide_id(slide)}'; give its feature file")
    return by_id[own]


def _cases(
    model: "Aligned", files: list[Path], reports: "_Reports", failures: list[dict[str, Any]]
) -> "Iterator[tuple[EncodedSlide | EncodedCase, Path | None, str | Sequence[SubCaption]]]":
    """Every report of the table that has features among the files, with the slides of its case or part."""
    from pathflip.data.case_items import by_part, join_reports
    from pathflip.inference import encode_files

    joined = join_reports(files, reports.captions)
    if left := joined.leftovers():
        say(f"note: {left}")
    for item in by_part(joined.items):
        try:
            encoded = encode_files(model, item.files, item.name)
        except PathFLIPError as error:
            failures.append({"slide_id": item.name, "error": str(error)})
            continue
        yield encoded, None, item.caption.sub_captions
    for name in joined.lonely_files:
        failures.append({"slide_id": name, "error": f"no report of slide '{name}'; expected a row with its id"})


class _Reports:
    """The report of every slide: one text for all, or a row of a table each."""

    def __init__(self, path: Path, options: "TableOptions") -> None:
        self._path, self._options = path, options
        self._captions: dict[str, Caption] | None = None
        if path.suffix.lower() in CAPTION_SUFFIXES:
            from pathflip.text.captions import read_captions

            self._captions = {caption.slide_id: caption for caption in read_captions(path, options=options)}

    @property
    def captions(self) -> "list[Caption]":
        """The reports of a table; none of a plain text."""
        return list((self._captions or {}).values())

    @property
    def holds_cases(self) -> bool:
        """Whether some report is of a case of several slides, or of one that only its folder tells."""
        from pathflip.text.case_tables import slides_of

        return any(len(slides_of(caption)) != 1 for caption in self.captions)

    def of(self, slide_id: str) -> str:
        """The text of a slide's report."""
        if self._captions is None:
            return self._text()
        from pathflip.io.slide_id import join_ids

        own = next((name for name, one in join_ids(self._captions, [slide_id]).items() if one == slide_id), None)
        if own is None:
            raise CaptionError(f"'{self._path.name}' has no report of slide '{slide_id}'; expected a row with its id")
        return self._captions[own].text

    def _text(self) -> str:
        from pathflip.io.tables import read_utf8

        text = read_utf8(self._path, "a text file or captions", self._options.encoding)
        if not text.strip():
            raise CaptionError(f"{self._path}: is empty; expected a report")
        return text
