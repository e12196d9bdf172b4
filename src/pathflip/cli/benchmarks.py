"""The verb benchmark: published protocols, each one command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pathflip.cli.app import Cases, Json, app, print_rows, progress_bar, say
from pathflip.errors import ConfigError


@app.command()
def benchmark(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Nothing: the list. A benchmark's NAME: run it. report DIR…: one page of many results."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The benchmark's own file, or folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the result (of report: the HTML file).")] = None,
    model: Annotated[Path | None, typer.Option(help="Checkpoint of an alignment model.")] = None,
    assistant: Annotated[Path | None, typer.Option(help="An assistant's directory.")] = None,
    features: Annotated[list[Path] | None, typer.Option(help="Feature files, or folders of them.")] = None,
    cases: Cases = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Somebody's answers (SlideChat's CSV, JSON lines, JSON): no model is run.")
    ] = None,
    text_only: Annotated[
        Path | None, typer.Option(help="Answers without the slide: a file, or a text-only assistant's directory.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Another system on the same items: a file of answers, a model's or assistant's directory, or the "
            "folder of a result. Prints the paired difference."
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score what is there; scored and total are both printed.")
    ] = False,
    other_set: Annotated[
        bool, typer.Option("--other-set", help="Take a file that is none of the published test sets.")
    ] = False,
    gallery_normalised: Annotated[
        bool, typer.Option("--gallery-normalised", help="Retrieval: also with statistics of the test gallery, apart.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of single benchmarks (docs/benchmarks.md).")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap cohorts of patients.", min=2)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of draws.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; a GPU if there is one.")] = None,
    json: Json = False,
) -> None:
    """Run a published benchmark: one number with its interval, its chance level and what answering blindly gives."""
    if not names:
        from pathflip.benchmarks import PROTOCOLS

        print_rows([protocol.as_row() for protocol in PROTOCOLS.values()], json, _protocol_line)
        return
    if names[0] == "report":
        _report([Path(name) for name in names[1:]], out, json)
        return
    if len(names) > 1:
        raise ConfigError(f"benchmark: got '{names[1]}' behind '{names[0]}'; expected one benchmark at a time")
    from pathflip.benchmarks import find_protocol, run_benchmark
    from pathflip.benchmarks.protocol import Inputs
    from pathflip.benchmarks.result_page import shown_comparisons, summary_rows

    protocol = find_protocol(names[0])
    if data is None or out is None:
        raise ConfigError(f"benchmark {protocol.name}: give --data and --out; it needs {protocol.needs}")
    with progress_bar(protocol.name) as advance:
        inputs = Inputs(
            data=data, model=model, assistant=assistant, features=tuple(features or ()), predictions=predictions,
            cases=cases, text_only=text_only, against=against, allow_missing=allow_missing, other_set=other_set,
            gallery_normalised=gallery_normalised, settings=_settings(settings or []), resamples=resamples, seed=seed,
            device=device, progress=advance,
        )  # fmt: skip
        result = run_benchmark(protocol.name, inputs, out)
    rows = summary_rows([result])
    if json:
        print_rows([row | {"notes": result["notes"]} for row in rows], json, _result_line)
        return
    scores = [{**score, "compared": shown_comparisons(score)} for score in result["scores"]]
    print_rows(scores, json, _score_line)
    print_rows([{**row, "compared": {}} for row in rows], json, _result_line)  # they stand above
    for note in result["notes"]:
        say(f"note: {note}")
    say(f"{out / 'result.html'}, {out / 'result.json'}")


def _settings(pairs: list[str]) -> dict[str, str]:
    known = ("crop_mpp", "language_model", "longest", "meteor_jar", "prompts", "sentence_model", "sentences",
             "train")  # fmt: skip
    chosen = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"--set: got '{pair}', expected KEY=VALUE with one of the keys {', '.join(known)}")
        chosen[key] = value
    return chosen


def _report(folders: list[Path], out: Path | None, json: bool) -> None:
    from pathflip.benchmarks import read_result, write_page
    from pathflip.benchmarks.comparison import compare_results
    from pathflip.benchmarks.result_page import summary_rows
    from pathflip.io.files import check_target

    if not folders:
        raise ConfigError("benchmark report: got no folder; expected those that `pathflip benchmark NAME --out` wrote")
    target = out or Path("benchmarks.html")
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"benchmark report: --out is '{target}', expected an .html file")
    results = [read_result(folder) for folder in folders]
    check_target(target)
    comparisons, notes = compare_results(folders, results)
    write_page(target, results, comparisons)
    print_rows(summary_rows(results), json, _result_line)
    print_rows(comparisons, json, _comparison_line)
    for note in notes:
        say(f"note: {note}")
    say(str(target))


def _protocol_line(row: Mapping[str, Any]) -> str:
    values = ", ".join(f"{p['system']} {p['value']:g} ({p['group']})" for p in row["published"][:2])
    return f"{row['name']:<24} {row['protocol']}: {row['metric']}\n{'':<24} needs {row['needs']}" + (
        f"\n{'':<24} published: {values}" if values else ""
    )


def _score_line(row: Mapping[str, Any]) -> str:
    text = (
        f"  {row['measure']:<36} {row['group'][:44]:<44} n {row['number']:<6} {_shown(row)}  chance {row['chance']:.3f}"
    )
    text += "".join(f"  {name} {value:.3f}" for name, value in row["baselines"].items() if value is not None)
    if row["text_only"] is not None:
        text += f"  text only {row['text_only']:.3f}"
    return text + _compared(row["compared"], "\n      ")


def _compared(compared: Mapping[str, Mapping[str, Any]], start: str) -> str:
    """The paired differences to other systems and to the best baseline."""
    lines = []
    for name, other in compared.items():
        p_value = "" if other["p_value"] is None else f", McNemar p {other['p_value']:.2g}"
        lines.append(f"{start}minus {name} {other['difference']:+.3f}{_interval(other, '+.3f')}{p_value}")
    return "".join(lines)


def _comparison_line(row: Mapping[str, Any]) -> str:
    text = f"{row['benchmark']}, {row['measure']} ({row['group']}), {row['number']} items: {row['first']} "
    text += f"{row['first_value']:.3f}, {row['second']} {row['second_value']:.3f}"
    return text + _compared({row["second"]: row}, "\n  ")


def _result_line(row: Mapping[str, Any]) -> str:
    text = f"{row['name']}: {row['measure']} ({row['group']}) {_shown(row)}, chance {row['chance_level']:.3f}, "
    text += f"{row['scored']} of {row['total']} scored; {row['test_set']}"
    published = "".join(f"\n  not run here: {p['system']} {p['value']:g} ({p['group']})"
                        for p in row["published_not_run_here"])  # fmt: skip
    verdict = f"\n  {row['verdict']}" if row["verdict"] else ""
    return text + verdict + _compared(row["compared"], "\n  ") + published


def _shown(row: Mapping[str, Any]) -> str:
    return "undefined" if row["value"] is None else f"{row['value']:.3f}{_interval(row, '.3f')}"


def _interval(row: Mapping[str, Any], shown: str) -> str:
    return "" if row["low"] is None or row["high"] is None else f" [{row['low']:{shown}}, {row['high']:{shown}}]"
