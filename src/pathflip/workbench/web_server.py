"""Start the workbench: bind a port, print its address, open the page, serve until stopped."""

import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathflip.errors import ConfigError, ContractError, MissingExtraError
from pathflip.slide.resolution_table import SlideResolution

if TYPE_CHECKING:
    from pathflip.types import Heatmap
    from pathflip.workbench.annotations import Annotations
    from pathflip.workbench.case_search import CaseSearch
    from pathflip.workbench.events import Events
    from pathflip.workbench.library import Library
    from pathflip.workbench.service import Models, ModelService

__all__ = ["Running", "Settings", "open_workbench"]

SHORTEST_PASSWORD = 12
MOST_CONNECTIONS = 2000
"""Beyond that the server answers 503. A browser holds up to six, and one more for events."""


@dataclass(frozen=True)
class Settings:
    """What the workbench shows, and to whom.

    Attributes:
        slides: files and folders.
        slide_mpp: microns per level-0 pixel, for files that do not say.
        annotations: file that drawn regions are kept in; None: one beside the slides of each folder.
        labels: table of the slides, to filter cases by.
        models: a model, an assistant and features; None means a viewer.
        archive: folder of an archive to find cases in.
        host, port: where to listen; port 0 takes a free one.
        password: needed where ``host`` is not this machine.
        heatmaps: to show from the start, by slide id.
        framed_by_notebooks: a notebook's page may show the workbench in a frame.
    """

    slides: Sequence[Path]
    slide_mpp: SlideResolution | None = None
    annotations: Path | None = None
    labels: Path | None = None
    models: "Models | None" = None
    archive: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    password: str | None = None
    heatmaps: "Mapping[str, Sequence[Heatmap]]" = field(default_factory=dict)
    framed_by_notebooks: bool = False


@dataclass(eq=False)
class Running:
    """A workbench that is being served. ``url`` opens it; ``slides`` is how many it shows."""

    url: str
    slides: int
    _serve: Callable[[], None]
    _stop: Callable[[], None]

    def serve(self) -> None:
        """Serve until interrupted."""
        self._serve()

    def start(self) -> None:
        """Serve beside the caller, in a thread of its own."""
        threading.Thread(target=self._serve, name="pathflip-view", daemon=True).start()

    def stop(self) -> None:
        """Stop the server."""
        self._stop()


def open_workbench(settings: Settings) -> Running:
    """Make a workbench ready to be served; its port is bound, so its address works as soon as it is served.

    Raises:
        ConfigError: no slides, a host without a password, a port in use. MissingExtraError: no web server installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(error.name or "uvicorn", "workbench", "pathflip view") from None
    from pathflip.workbench.drawing import watch_other_programs
    from pathflip.workbench.events import Events
    from pathflip.workbench.guard import Access
    from pathflip.workbench.library import Library
    from pathflip.workbench.running_workbench import Workbench
    from pathflip.workbench.service import ModelService
    from pathflip.workbench.web_app import create_app

    _check_host(settings)
    library = Library(settings.slides, settings.slide_mpp)
    events = Events()
    service = None
    if settings.models is not None:
        service = ModelService(replace(settings.models, slide_mpp=settings.slide_mpp), library, events)
    cases = _cases(settings, service, library, events)
    listening = _bind(settings.host, settings.port)
    port = listening.getsockname()[1]
    access = Access(settings.host, port, settings.password, settings.framed_by_notebooks)
    stores = _annotations(settings, library.roots)
    bench = Workbench(
        library, access, events=events, service=service, annotations=stores, cases=cases, maps=_maps(settings, library)
    )
    config = uvicorn.Config(
        create_app(bench),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=75,  # longer than people look at a field
        backlog=256,
    )
    server = uvicorn.Server(config)
    stopping = threading.Event()

    def end_streams() -> None:  # a page's open event stream would hold up the end
        while not (stopping.wait(0.2) or server.should_exit):
            pass
        bench.events.close()

    def serve() -> None:
        threading.Thread(target=end_streams, daemon=True).start()
        watched = list({id(store): store for store in stores.values()}.values())
        threading.Thread(target=watch_other_programs, args=(watched, events, stopping), daemon=True).start()
        if service is not None:
            service.start()
        try:
            server.run(sockets=[listening])
        finally:
            stopping.set()
            listening.close()
            library.close()
            for store in watched:
                store.close()

    def stop() -> None:
        server.should_exit = True

    return Running(_address(settings, port, access.token), len(library), serve, stop)


def _cases(
    settings: Settings, service: "ModelService | None", library: "Library", events: "Events"
) -> "CaseSearch | None":
    """The archive, or the slides with features, to be searched; None without any."""
    from pathflip.workbench.case_search import FolderCases, Labels, read_labels

    if settings.archive is not None:
        from pathflip.workbench.archive_cases import ArchiveCases

        if settings.labels is not None:
            raise ConfigError("--labels: an archive has its own; give them to  pathflip index")
        return ArchiveCases(settings.archive, service, library)
    if service is None or not service.feature_files:
        if settings.labels is not None:
            raise ConfigError("--labels: they filter cases, which need --model and --features")
        return None
    names = [*service.feature_files, *(file.slide_id for file in library.files.values())]
    labels = Labels() if settings.labels is None else read_labels(settings.labels, list(dict.fromkeys(names)))
    return FolderCases(service, service.feature_files, events, labels)


def _maps(settings: Settings, library: "Library") -> dict[str, list[dict[str, Any]]]:
    """Heatmaps made elsewhere, as the page shows them.

    Raises:
        ContractError: a heatmap of another slide than the one it is shown on.
    """
    from pathflip.workbench.lattice import answer_row

    maps: dict[str, list[dict[str, Any]]] = {}
    for name, heatmaps in settings.heatmaps.items():
        file = library.by_slide_id(name)
        if file is None:
            raise ConfigError(f"heatmap of slide '{name}': no such slide among those named")
        with library.opened(file) as zoom:
            size0 = zoom.slide.info.size0
        for heatmap in heatmaps:
            if heatmap.grid.info.size0 != size0:
                raise ContractError(
                    f"heatmap of '{heatmap.grid.info.slide_id}', {heatmap.grid.info.size0} px, but slide '{name}' has "
                    f"{size0} px; give the slide it was made on"
                )
        maps[file.key] = [answer_row(heatmap) for heatmap in heatmaps]
    return maps


def _annotations(settings: Settings, roots: Sequence[Path]) -> "dict[Path, Annotations]":
    """Where the regions of each folder's slides are kept."""
    from pathflip.workbench.annotations import DATABASE_NAME, Annotations

    if settings.annotations is not None:
        store = Annotations(settings.annotations)
        return dict.fromkeys(roots, store)
    return {root: Annotations(root / DATABASE_NAME) for root in dict.fromkeys(roots)}


def _check_host(settings: Settings) -> None:
    local = settings.host in ("127.0.0.1", "localhost", "::1")
    if not local and settings.password is None:
        raise ConfigError(
            f"--host {settings.host}: others could reach this server, so it needs a password; set it in the "
            "environment variable PATHFLIP_PASSWORD"
        )
    if settings.password is not None and len(settings.password) < SHORTEST_PASSWORD:
        raise ConfigError(
            f"the password has {len(settings.password)} characters, expected {SHORTEST_PASSWORD} or more: it guards "
            "every slide named"
        )


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}; choose another --port or --host") from None
    return listening


def _address(settings: Settings, port: int, token: str) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    if host in ("0.0.0.0", "[::]"):
        host = socket.gethostname()
    return f"http://{host}:{port}/" + ("" if settings.password is not None else f"?token={token}")


def show_page(url: str) -> None:
    """Open the address in the person's browser, if there is one."""
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
