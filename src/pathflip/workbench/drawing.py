"""Routes of drawn regions: kept at once, told to every page, exchanged with QuPath."""

import json
import re
import threading
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pathflip.geometry import SlideInfo
from pathflip.workbench.annotations import Annotations, ChangedElsewhereError, Region
from pathflip.workbench.endpoints import Body, Endpoint, in_thread, with_body
from pathflip.workbench.events import Events
from pathflip.workbench.library import SlideFile
from pathflip.workbench.region_geojson import MOST_NAME_CHARACTERS, export_regions, import_regions, valid_geometry
from pathflip.workbench.running_workbench import Workbench

__all__ = ["changed_elsewhere", "region_routes", "watch_other_programs"]

WATCH_S = 1.5


class Drawn(Body):
    """A region as a page draws it."""

    geometry: dict[str, Any]
    name: str = Field("", max_length=MOST_NAME_CHARACTERS)
    classification: str = Field("", max_length=MOST_NAME_CHARACTERS)
    color: str = Field("#d02020", pattern=r"^#[0-9a-fA-F]{6}$")
    version: int = 1

    def region(self, identity: str = "") -> Region:
        """The region, its outline checked and mended."""
        geometry = valid_geometry(self.geometry, self.name or "region")
        return Region(identity, geometry, self.name, self.classification, self.color, self.version)


def region_routes(bench: Workbench) -> list[Route]:
    """List, draw, change, delete, import, export."""

    def place(request: Request) -> tuple[SlideFile, Annotations]:
        file = bench.file(request.path_params["key"])
        return file, bench.annotations[file.root]

    def tell(request: Request, file: SlideFile, **change: Any) -> None:
        bench.events.publish("regions", slide=file.key, by=request.headers.get("x-page", ""), **change)

    def listed(request: Request) -> Response:
        file, store = place(request)
        return JSONResponse({"regions": [region.row() for region in store.of(file.name)]})

    def draw(request: Request, drawn: Drawn) -> dict[str, Any]:
        file, store = place(request)
        made = store.add(file.name, [drawn.region()])[0].row()
        tell(request, file, kept=[made])
        return made

    def change(request: Request, drawn: Drawn) -> dict[str, Any]:
        file, store = place(request)
        changed = store.change(file.name, drawn.region(request.path_params["id"])).row()
        tell(request, file, kept=[changed])
        return changed

    def delete(request: Request) -> Response:
        file, store = place(request)
        identity, version = request.path_params["id"], request.query_params.get("version", "")
        if not re.fullmatch(r"[0-9]{1,18}", version):
            raise HTTPException(400, "version: expected the version of the region that is deleted")
        store.delete(file.name, identity, int(version))
        tell(request, file, deleted=[identity])
        return JSONResponse({"deleted": identity})

    def slide_info(file: SlideFile) -> SlideInfo:
        with bench.library.opened(file) as zoom:
            return zoom.slide.info

    def export(request: Request) -> Response:
        file, store = place(request)
        collection = export_regions(store.of(file.name), slide_info(file))
        plain, full = re.sub(r"[^A-Za-z0-9._-]", "_", file.slide_id), quote(file.slide_id, safe="")
        headers = {"Content-Disposition": f"attachment; filename=\"{plain}.geojson\"; filename*=UTF-8''{full}.geojson"}
        return Response(json.dumps(collection), media_type="application/geo+json", headers=headers)

    def keep_imported(request: Request, data: bytes) -> dict[str, Any]:
        file, store = place(request)
        regions, left_out = import_regions(data.decode("utf-8-sig", "replace"), slide_info(file))
        made = [region.row() for region in store.add(file.name, regions)] if regions else []
        tell(request, file, reload=True)
        return {"imported": len(made), "left_out": left_out}

    async def receive_import(request: Request) -> Response:
        data = await request.body()
        return JSONResponse(await anyio.to_thread.run_sync(keep_imported, request, data))

    receive: Endpoint = receive_import
    regions = "/api/slides/{key}/regions"
    return [
        Route(regions, in_thread(listed), methods=["GET"]),
        Route(regions, with_body(Drawn, draw), methods=["POST"]),
        Route(f"{regions}.geojson", in_thread(export), methods=["GET"]),
        Route(f"{regions}.geojson", receive, methods=["POST"]),
        Route(f"{regions}/{{id}}", with_body(Drawn, change), methods=["PUT"]),
        Route(f"{regions}/{{id}}", in_thread(delete), methods=["DELETE"]),
    ]


async def changed_elsewhere(request: Request, error: Exception) -> Response:
    """The answer to a change made on an old version: the current region."""
    assert isinstance(error, ChangedElsewhereError)
    current = None if error.current is None else error.current.row()
    reason = "somebody else deleted this region" if current is None else "somebody else changed this region first"
    return JSONResponse({"error": reason, "current": current}, 409)


def watch_other_programs(stores: list[Annotations], events: Events, stop: threading.Event) -> None:
    """Tell every page when another server changes the regions. Runs until ``stop`` is set."""
    seen = [store.data_version() for store in stores]
    while not stop.wait(WATCH_S):
        for number, store in enumerate(stores):
            now = store.data_version()
            if now != seen[number]:
                seen[number] = now
                events.publish("regions", slide="", by="", reload=True)
