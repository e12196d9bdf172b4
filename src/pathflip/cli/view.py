"""The verb view: the workbench in the browser."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pathflip.cli.app import Device, Json, SlideMPP, Slides, app, print_rows, say
from pathflip.errors import ConfigError

PASSWORD_VARIABLE = "PATHFLIP_PASSWORD"


@app.command()
def view(
    slides: Slides,
    model: Annotated[Path | None, typer.Option(help="Checkpoint directory, for example runs/base/best.")] = None,
    assistant: Annotated[Path | None, typer.Option(help="An assistant's directory, for questions in words.")] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(help="Feature files or folders of them; slides read here are added to the first folder."),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(help="Archive (pathflip index) to find cases in; with its own model unless one is named."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with a column 'slide': its other columns filter the cases found.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="SQLite file for drawn regions; else one beside the slides.")
    ] = None,
    slide_mpp: SlideMPP = None,
    host: Annotated[
        str, typer.Option(help=f"Address to listen on; others than this machine need {PASSWORD_VARIABLE}.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
    device: Device = None,
    json: Json = False,
) -> None:
    """Look at slides in the browser: a fast viewer, and with a model, ask where, what and which cases."""
    from pathflip.workbench.service import Models
    from pathflip.workbench.web_server import Settings, open_workbench, show_page

    if archive is not None and model is None and assistant is None:
        from pathflip.archive import open_archive

        model = Path(open_archive(archive).model.path)
    has_model = model is not None or assistant is not None
    if features and not has_model:
        raise ConfigError("--features: only a model can ask of them; give --model or --assistant too")
    models = Models(model=model, assistant=assistant, features=tuple(features or ()), device=device)
    running = open_workbench(
        Settings(
            slides=slides,
            slide_mpp=slide_mpp,
            annotations=annotations,
            labels=labels,
            models=models if has_model else None,
            archive=archive,
            host=host,
            port=port,
            password=os.environ.get(PASSWORD_VARIABLE),
        )
    )
    plural = "" if running.slides == 1 else "s"
    say(f"{running.slides} slide{plural}. Research software, not a medical device. Ctrl-C ends it.")
    print_rows([{"url": running.url, "slides": running.slides}], json, lambda row: str(row["url"]))
    if browser:
        show_page(running.url)
    running.serve()
