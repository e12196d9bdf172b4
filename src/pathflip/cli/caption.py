"""The verb caption: what an assistant writes, or sentences of training reports that the alignment model bears out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pathflip.cli.app import Cases, Device, Features, Json, app, finish
from pathflip.cli.ask import (
    EvidenceOut,
    LanguageModel,
    Seed,
    Temperature,
    answer_line,
    check_out,
    each_answer,
    write_answers,
)
from pathflip.errors import ConfigError


@app.command()
def caption(
    features: Features,
    assistant: Annotated[
        Path | None, typer.Option(help="An assistant's directory: its language model writes the caption.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Alignment model: the caption is composed of --sentences it bears out.")
    ] = None,
    sentences: Annotated[
        Path | None,
        typer.Option(help="Bank of training sentences (pathflip calibrate … --sentences FILE); with --model."),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option(
            help="Of composed captions: how probable (at even odds) a finding said to be there, or not, must be. What "
            "names no finding must be called supported by the verifier."
        ),
    ] = None,
    cases: Cases = None,
    out: EvidenceOut = None,
    language_model: LanguageModel = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    device: Device = None,
    json: Json = False,
) -> None:
    """Describe slides, one caption each; every sentence names the regions that support it."""
    check_out(out)
    written = assistant is not None and model is None and sentences is None
    if not written and (assistant is not None or model is None or sentences is None):
        raise ConfigError(
            "caption: give --assistant (a language model writes), or --model and --sentences (sentences of training "
            "reports that the model bears out)"
        )
    if written and at_least is not None:
        raise ConfigError("caption: --at-least is of composed captions; give it with --model and --sentences")
    if not written and (temperature or language_model is not None):
        raise ConfigError("caption: --temperature and --language-model are an assistant's; leave them out with --model")
    if written:
        assert assistant is not None
        loaded, describe, line = *_writer(assistant, language_model, temperature, seed, device), answer_line
    else:
        assert model is not None
        assert sentences is not None
        loaded, describe, line = *_composer(model, sentences, at_least, device), _composed_line
    rows = each_answer(loaded, features, cases, out, describe)
    write_answers(out, rows)
    finish(rows, json, line)


def _writer(
    assistant: Path, language_model: str | None, temperature: float, seed: int, device: str | None
) -> tuple[Any, Callable[[list[Any]], tuple[Any, dict[str, Any]]]]:
    """The alignment model of an assistant, and what makes it write about prepared slides."""
    from pathflip.assistant import Writing, load_assistant
    from pathflip.assistant import caption as describe

    loaded = load_assistant(assistant, device, language_model)
    writing = Writing(max_new_tokens=400, temperature=temperature, seed=seed)
    return loaded.aligned, lambda views: (describe(loaded, views, writing=writing), {})


def _composer(
    model: Path, sentences: Path, at_least: float | None, device: str | None
) -> tuple[Any, Callable[[list[Any]], tuple[Any, dict[str, Any]]]]:
    """An alignment model, and what composes captions of prepared slides with it."""
    from pathflip.inference import load
    from pathflip.verify import AT_LEAST, CaptionComposer, read_sentence_bank, read_verifier_calibration

    loaded = load(model, device)
    calibration = read_verifier_calibration(loaded.checkpoint.path or model)
    bank = read_sentence_bank(sentences, loaded)
    composer = CaptionComposer(loaded, bank, calibration, at_least=AT_LEAST if at_least is None else at_least)
    return loaded, partial(_compose, composer)


def _compose(composer: Any, views: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """The caption of a slide, or of the slides of a case, as an answer, and what only composed captions tell."""
    from pathflip.inference import encode_case

    alone = len(views) == 1
    slides = [view.features for view in views]
    encoded = views[0].encoded if alone else encode_case(composer.model, slides, views[0].slide_id)
    composed = composer.compose(encoded)
    return composed.as_answer(), {
        "sentences": [one.as_row() for one in composed.sentences],
        "counts": composed.counts(),
    }


def _composed_line(row: Mapping[str, Any]) -> str:
    """Each sentence with its probability, how many reports say it, and its places."""
    lines = [f"{row['slide_id']}: {row['answer'] or 'no sentence is borne out'}"]
    for one in row["sentences"]:
        places = [e for e in row["evidence"] if e["text"] == one["sentence"]]
        shown = ", ".join(f"({e['x']}, {e['y']}) on {e['slide_id']}" for e in places) or "an absence has no place"
        reports = f"{one['reports']} report{'s' if one['reports'] != 1 else ''}"
        lines.append(f"    {one['probability']:.2f}  {one['sentence']}\n          {reports}; {shown}")
    return "\n".join([*lines, f"    note: {row['note']}"])
