"""The verb that lays features out for training: pack."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from pathflip.cli.app import Json, Out, app, files_in, finish, progress_bar, say
from pathflip.errors import ConfigError

__all__ = ["number_format"]


def number_format(name: str | None) -> Literal["float16", "float32"] | None:
    """A number format by its name.

    Raises:
        ConfigError: it is neither.
    """
    if name not in (None, "float16", "float32"):
        raise ConfigError(f"number format: got '{name}', expected float16 or float32")
    return cast(Literal["float16", "float32"] | None, name)


@app.command()
def pack(
    features: Annotated[list[Path], typer.Argument(help="Feature files, or folders of them.", show_default=False)],
    out: Out,
    dtype: Annotated[
        str | None, typer.Option(help="Of a new store: float16 (default) or float32.", show_default=False)
    ] = None,
    context: Annotated[
        bool | None,
        typer.Option(
            "--context/--no-context",
            help="Store neighbourhood means too (default): twice the size, and a step reads a ninth of the rows.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Slides packed at once.", min=1, show_default=False)] = None,
    cluster: Annotated[str, typer.Option(help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT (docs/scale.md).")] = "",
    json: Json = False,
) -> None:
    """Lay features out so that training reads only the patches it draws; resumable, only what changed is packed."""
    from pathflip.data.packed import pack_features
    from pathflip.data.packed.packing import RunPackJobs
    from pathflip.io.files import check_writable
    from pathflip.io.storage import as_url

    if as_url(out) is None:
        check_writable(out)
    run_jobs: RunPackJobs | None = None
    if cluster:
        from pathflip.data.packed.on_cluster import pack_on_cluster
        from pathflip.features.cluster import ClusterSpec

        run_jobs = pack_on_cluster(ClusterSpec(cluster), say)
    with progress_bar("packing") as advance:
        rows = pack_features(
            files_in(features, {".h5"}),
            out,
            dtype=number_format(dtype),
            context=context,
            num_threads=threads,
            run_jobs=run_jobs,
            progress=advance,
        )
    finish(rows, json, _pack_line)


def _pack_line(row: Mapping[str, Any]) -> str:
    return f"{row['slide_id']}: {row['status']}, {row['rows']} patches → {row['path']}"
