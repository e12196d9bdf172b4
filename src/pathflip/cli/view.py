"""The verb view: the workbench in the browser."""

import os
from typing import Annotated

import typer

from pathflip.cli.app import SLIDE_SUFFIXES, Json, SlideMPP, Slides, app, print_rows, say

PASSWORD_VARIABLE = "PATHFLIP_PASSWORD"


@app.command()
def view(
    slides: Slides,
    slide_mpp: SlideMPP = None,
    host: Annotated[
        str, typer.Option(help=f"Address to listen on; others than this machine need {PASSWORD_VARIABLE}.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
    json: Json = False,
) -> None:
    """Look at slides in the browser: a fast viewer, and with a model, ask where, what and which cases."""
    from pathflip.workbench.server import Settings, open_workbench, show_page

    running = open_workbench(
        Settings(
            slides=slides,
            suffixes=SLIDE_SUFFIXES,
            slide_mpp=slide_mpp,
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
