"""Verbs of words: decompose, eval caption, eval vqa."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathflip.cli.app import (
    Device,
    Encoding,
    Json,
    PartColumn,
    QuestionColumn,
    ReportColumn,
    SlideColumn,
    app,
    print_rows,
    progress_bar,
    say,
)
from pathflip.cli.model_verbs import evaluations
from pathflip.errors import ConfigError

if TYPE_CHECKING:
    from pathflip.text.decompose import DecomposeSpec

Predictions = Annotated[Path, typer.Option(help="What a model said: JSON lines, JSON or CSV.")]
TextOnly = Annotated[
    Path | None, typer.Option(help="What the same language model said without the slide: the baseline that counts.")
]
Resamples = Annotated[int, typer.Option(help="Bootstrap cohorts of patients.", min=2)]
Seed = Annotated[int, typer.Option(help="Of the bootstrap.")]
_SHOWN = 5


@app.command()
def decompose(
    reports: Annotated[Path, typer.Argument(help="Caption file (JSON lines, JSON, CSV), or a folder of .txt reports.")],
    out: Annotated[Path, typer.Option(help="JSON lines to write, ready for `pathflip train --captions`.")],
    by: Annotated[str, typer.Option(help="rules, server, or local.")] = "rules",
    url: Annotated[str | None, typer.Option(help="Server, for example http://localhost:11434/v1.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The server's name of the model; the folder of a local one.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of answers; OUT.cache beside --out if not given.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the server's key.")] = None,
    response_format: Annotated[str, typer.Option(help="json_schema, json_object or none.")] = "json_schema",
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 4,
    requests_per_min: Annotated[float | None, typer.Option(help="Rate limit.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 4096,
    price_in: Annotated[float, typer.Option(help="Price of a million tokens sent.")] = 0.0,
    price_out: Annotated[float, typer.Option(help="Price of a million tokens received.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent, and its cost.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paying, or before text leaves.")] = False,
    redact: Annotated[bool, typer.Option("--redact", help="Take out what may identify somebody.")] = False,
    allow_identifiers: Annotated[bool, typer.Option("--allow-identifiers", help="Send it all the same.")] = False,
    keep_unsupported: Annotated[
        bool, typer.Option("--keep-unsupported", help="Keep sub-captions the report does not support.")
    ] = False,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    part_column: PartColumn = None,
    encoding: Encoding = None,
    json: Json = False,
) -> None:
    """Reports to sub-captions, each checked against its report; no text leaves unless --url names a server."""
    from pathflip.io.files import check_target
    from pathflip.io.tables import TableOptions
    from pathflip.io.write_tables import left_out_beside, write_left_out
    from pathflip.text.decompose import DecomposeSpec, read_reports
    from pathflip.text.decompose.job import failures_beside, guard

    if redact and allow_identifiers:
        raise ConfigError("decompose: --redact takes out what --allow-identifiers would send; give one of them")
    server_options = {
        "url": url, "model": model, "api_key_env": api_key_env, "response_format": response_format,
        "concurrency": concurrency, "requests_per_min": requests_per_min, "timeout_s": timeout,
        "max_tokens": max_tokens, "price_in": price_in, "price_out": price_out,
    }  # fmt: skip
    spec = DecomposeSpec(
        by=_asked_of(by, server_options),
        cache=cache or out.with_name(f"{out.name}.cache"),
        identifiers="redact" if redact else "allow" if allow_identifiers else "refuse",
    )
    for target in (out, failures_beside(out), left_out_beside(out)):
        check_target(target, [reports])
    texts, problems = read_reports(reports, TableOptions(slide_column, text_column, part_column, encoding))
    if problems:
        write_left_out(left_out_beside(out), problems)
        shown = "" if len(problems) <= _SHOWN else f"; and {len(problems) - _SHOWN} more"
        say(f"left out: {reports.name}: {'; '.join(problems[:_SHOWN])}{shown}")
        say(f"note: {len(problems)} rows are left out (counted from the header, the first below it is 1): "
            f"{left_out_beside(out)}")  # fmt: skip
    if not texts:
        raise ConfigError(f"'{reports}': no report that can be used")
    if marked := guard(texts, spec):
        say(f"note: {marked} of {len(texts)} reports hold what may identify somebody; --redact takes it out")
    if _agreed(texts, spec, dry_run, yes, json):
        _decompose(texts, spec, out, keep_unsupported, len(problems), json)


def _asked_of(by: str, options: Mapping[str, Any]) -> Any:
    """The server or local model named, None for rules."""
    from pydantic import ValidationError

    from pathflip.text.decompose import LocalSpec, ServerSpec

    if by == "rules":
        if options["url"] or options["model"]:
            raise ConfigError("decompose: --url and --model go with --by server or --by local; the rules need neither")
        return None
    if by not in ("server", "local"):
        raise ConfigError(f"--by: got '{by}', expected rules, server or local")
    if not options["model"] or (by == "server" and not options["url"]):
        raise ConfigError(f"decompose --by {by}: give --model" + (" and --url" if by == "server" else " FOLDER"))
    if by == "local" and options["url"]:
        raise ConfigError("decompose --by local reads a folder and sends nothing; leave --url out")
    try:
        if by == "local":
            return LocalSpec(model=Path(options["model"]), max_tokens=options["max_tokens"])
        return ServerSpec(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removesuffix("_s").replace("_", "-")
        raise ConfigError(f"--{name}: {first['msg'].removeprefix('Value error, ')}") from None


def _agreed(texts: Any, spec: "DecomposeSpec", dry_run: bool, yes: bool, json: bool) -> bool:
    """Say what a server would be sent; whether to go on."""
    from pathflip.text.decompose import ServerSpec
    from pathflip.text.decompose.job import pending_reports
    from pathflip.text.decompose.server import estimate, is_local

    if not isinstance(spec.by, ServerSpec):
        if dry_run:
            say(f"{len(texts)} reports; nothing would be sent anywhere")
        return not dry_run
    about = estimate(pending_reports(texts, spec), spec.by)
    cost = "" if about.cost is None else f", cost about {about.cost:.2f}"
    tokens = f"about {about.tokens_in:,} tokens there and {about.tokens_out:,} back{cost}"
    say(f"{about.reports} of {len(texts)} reports to {spec.by.endpoint}, {tokens} (the others are in the cache)")
    if dry_run:
        row = {"dry_run": True, "reports": about.reports, "cached": len(texts) - about.reports}
        row |= {"tokens_in": about.tokens_in, "tokens_out": about.tokens_out}
        print_rows([row | ({} if about.cost is None else {"cost": about.cost})] if json else [], json, str)
        return False
    if not about.reports or yes or (is_local(spec.by.url) and not about.cost):
        return True
    if not sys.stdin.isatty():
        raise ConfigError("decompose: text would leave this machine, or cost money: give --yes to agree")
    return typer.confirm("Send it?", err=True)


def _decompose(texts: Any, spec: "DecomposeSpec", out: Path, keep_unsupported: bool, left_out: int, json: bool) -> None:
    from pathflip.text.decompose import decompose_reports, write_decomposed
    from pathflip.text.decompose.server import Usage

    usage = Usage()
    try:
        with progress_bar("decomposing") as advance:
            done = decompose_reports(texts, spec, usage=usage, progress=advance)
    except KeyboardInterrupt:
        say(f"pathflip: stopped. Answers so far are in '{spec.cache}'; the same command goes on from there.")
        raise typer.Exit(130) from None
    row = write_decomposed(out, done, keep_unsupported=keep_unsupported)
    if spec.by is not None:
        row |= {"requests": usage.requests, "retries": usage.retries}
        row |= {"tokens_in": usage.tokens_in, "tokens_out": usage.tokens_out}
    print_rows([row | {"left_out": left_out}], json, _decomposed_line)
    for reason, number in row["set_aside"].items():
        say(f"  {number:6}  not visible or undecided: {reason}")
    for item in (item for item in done if item.error):
        say(f"{item.slide_id}: FAILED {item.error}")
    if row["failed"] or left_out:
        raise typer.Exit(1)


def _decomposed_line(row: Mapping[str, Any]) -> str:
    line = f"{row['reports']} reports, {row['subcaptions']} sub-captions ({row['visual']} visible) → {row['out']}"
    if "requests" in row:
        line += f"; {row['flagged']} flagged as not supported, {row['covered']:.0%} of the reports' words held"
        line += f"; {row['requests']} requests, {row['from_cache']} reports from the cache"
    return line + (f"; {row['failed']} failed" if row["failed"] else "")


@evaluations.command()
def caption(
    predictions: Predictions,
    references: Annotated[Path, typer.Option(help="True captions: JSON lines, JSON or CSV.")],
    text_only: TextOnly = None,
    train: Annotated[Path | None, typer.Option(help="Training captions: what the baselines are made of.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column of --references with the organ, for a baseline that knows it.")
    ] = None,
    meteor_jar: Annotated[Path | None, typer.Option(help="meteor-1.5.jar, for METEOR proper (needs Java).")] = None,
    bertscore: Annotated[
        Path | None, typer.Option(help="Folder of a Hugging Face encoder (BERT, RoBERTa …), for BERTScore.")
    ] = None,
    bertscore_layer: Annotated[
        int | None, typer.Option(help="Its layer to compare, from 1; the last if absent.")
    ] = None,
    device: Device = None,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    part_column: PartColumn = None,
    encoding: Encoding = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """BLEU, ROUGE-L, METEOR, CIDEr and BERTScore of captions, beside captions that look at no slide."""
    from pathflip.evaluate.captioning import evaluate_captions
    from pathflip.io.tables import TableOptions

    rows = evaluate_captions(
        predictions,
        references,
        text_only=text_only,
        train=train,
        group_column=group_column,
        meteor_jar=meteor_jar,
        bertscore=bertscore,
        bertscore_layer=bertscore_layer,
        device=device,
        num=resamples,
        seed=seed,
        options=TableOptions(slide_column, text_column, part_column, encoding),
    )
    print_rows(rows, json, lambda r: f"{r['measure']:<18} {_numbers(r)}  skill {r['skill']:+.3f}")
    if not json and rows[0]["missing"]:
        say(f"note: {rows[0]['missing']} of {rows[0]['captions']} slides have no prediction: counted as empty captions")
    if not json and rows[-1].get("truncated"):
        say(f"note: BERTScore read only the beginning of {rows[-1]['truncated']} texts, as far as its model reads")


@evaluations.command()
def vqa(
    predictions: Predictions,
    questions: Annotated[Path, typer.Option(help="questions.jsonl of a cohort, or SlideBench's CSV or JSON.")],
    text_only: TextOnly = None,
    train: Annotated[Path | None, typer.Option(help="Questions the constant letter is chosen on.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split, from splits.csv beside --questions.")] = None,
    slide_column: SlideColumn = None,
    text_column: QuestionColumn = None,
    encoding: Encoding = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Accuracy of multiple-choice answers, by writing and by likelihood, beside answers that look at no slide."""
    from pathflip.data.question_files import read_questions
    from pathflip.evaluate.predictions import read_predictions
    from pathflip.evaluate.scorable import scorable
    from pathflip.evaluate.vqa import vqa_measures
    from pathflip.io.tables import TableOptions

    options = TableOptions(slide_column, text_column, encoding=encoding)
    asked = read_questions(questions, split, options=options, with_problems=True)
    known = scorable(questions.name, asked, published=False)
    rows = vqa_measures(
        known.questions,
        read_predictions(predictions, options.of_answers),
        text_only=read_predictions(text_only, options.of_answers) if text_only else None,
        train=read_questions(train, options=options) if train else None,
        num=resamples,
        seed=seed,
        others=known.others,
    )
    print_rows([row | {"not_scored": len(known.others)} for row in rows], json, _vqa_line)
    for note in known.notes:
        say(f"note: {note}")
    if strays := rows[0]["strays"]:
        say(f"note: {strays} predictions belong to no question and were left out")


def _vqa_line(row: Mapping[str, Any]) -> str:
    unread = "".join(f"  {count} {why}" for why, count in row.get("unread", {}).items())
    head = f"{row['measure']:<18} {row['how']:<10} {row['category'][:44]:<44} n {row['questions']:<5}"
    return f"{head} {_numbers(row)}{unread}"


def _numbers(row: Mapping[str, Any]) -> str:
    """Value, interval, baselines, and the difference to the text-only baseline."""
    text = f"{row['value']:.3f}{_interval(row['low'], row['high'])}"
    text += "".join(f"  {name} {value:.3f}" for name, value in row.get("baselines", {}).items())
    if "text_only" in row:
        gap = f"{row['difference']:+.3f}{_interval(row['difference_low'], row['difference_high'])}"
        text += f"  text only {row['text_only']:.3f}, difference {gap}"
        if "mcnemar_p" in row:
            text += f", McNemar p {row['mcnemar_p']:.2g}"
    return text


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
