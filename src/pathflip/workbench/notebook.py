"""The workbench in a notebook: one slide, in a frame, with heatmaps made there."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathflip.arguments import refuse_text
from pathflip.slide import Slide
from pathflip.slide.paths import slide_names
from pathflip.slide.resolution_table import SlideResolution
from pathflip.types import Heatmap
from pathflip.workbench.service import Models
from pathflip.workbench.web_server import Running, Settings, open_workbench

__all__ = ["NotebookView", "view"]


@dataclass(eq=False)
class NotebookView:
    """A served slide. Shown as a frame where it is the last value of a cell; ``url`` opens it in a tab of its own."""

    url: str
    height: int
    _running: Running

    def _repr_html_(self) -> str:
        source = html.escape(f"{self.url}&embed=1", quote=True)
        return (
            f'<iframe src="{source}" width="100%" height="{int(self.height)}" style="border: 1px solid #c9d4d6" '
            'title="PathFLIP workbench" allow="fullscreen"></iframe>'
        )

    def close(self) -> None:
        """End the server behind the frame (it ends with the notebook otherwise)."""
        self._running.stop()


def view(
    slide: str | Path | Slide,
    heatmap: Heatmap | Sequence[Heatmap] = (),
    *,
    model: str | Path | None = None,
    assistant: str | Path | None = None,
    features: str | Path | None = None,
    annotations: str | Path | None = None,
    slide_mpp: SlideResolution | None = None,
    height: int = 620,
) -> NotebookView:
    """Show a slide in Jupyter: the viewer of ``pathflip view``, served from this process.

    Args:
        slide: a slide file, or an open slide.
        heatmap: one or several from :func:`pathflip.ground`, made on this slide.
        model, assistant, features: as for ``pathflip view``: to ask from the frame, too.
        annotations: file for drawn regions; else one beside the slide.
        slide_mpp: microns per level-0 pixel, where the file does not say.
        height: of the frame, in pixels.

    Raises:
        SlideError, ConfigError: the slide cannot be shown. ContractError: a heatmap of another slide.
        MissingExtraError: no web server is installed.
    """
    refuse_text(heatmap, "heatmap", "a heatmap, or a list of them")
    path = slide.path if isinstance(slide, Slide) else Path(slide)
    heatmaps = [heatmap] if isinstance(heatmap, Heatmap) else list(heatmap)
    paths = [None if value is None else Path(value) for value in (model, assistant, features, annotations)]
    models = Models(model=paths[0], assistant=paths[1], features=() if paths[2] is None else (paths[2],))
    running = open_workbench(
        Settings(
            slides=[path],
            slide_mpp=slide_mpp,
            annotations=paths[3],
            models=models if model is not None or assistant is not None else None,
            heatmaps={slide_names([path])[path]: heatmaps} if heatmaps else {},
            framed_by_notebooks=True,
        )
    )
    running.start()
    return NotebookView(running.url, height, running)
