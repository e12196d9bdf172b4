"""The server's application: pages, slides, tiles. Routes are thin; what they call stands in its own module."""

import json
import sys
from functools import lru_cache
from pathlib import Path

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pathflip.errors import PathFLIPError, SlideError
from pathflip.workbench.annotations import ChangedElsewhereError
from pathflip.workbench.case_routes import case_routes
from pathflip.workbench.case_search import NotIndexedError
from pathflip.workbench.deepzoom_tiles import encode_jpeg, unreadable_tile
from pathflip.workbench.drawing import changed_elsewhere, region_routes
from pathflip.workbench.endpoints import Endpoint, in_thread
from pathflip.workbench.guard import Guard, UploadTooLargeError, login
from pathflip.workbench.model_routes import question_routes
from pathflip.workbench.running_workbench import Workbench, shown_text
from pathflip.workbench.service import NotReadError

__all__ = ["create_app"]

STATIC = Path(__file__).with_name("static")
THUMBNAIL_PX = 320
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Addresses of tiles hold the file's version, so they may be kept."""


def create_app(bench: Workbench) -> Starlette:
    """The application for a set of slides. Serve it on ``bench.access.host`` and ``.port`` only."""
    routes = [
        Route("/", _page(bench)),
        Route("/login", _login(bench), methods=["GET", "POST"]),
        Route("/api/state", lambda request: JSONResponse(bench.state())),
        Route("/api/events", _events(bench)),
        Route("/api/slides/{key}", in_thread(lambda request: _info(bench, request))),
        Route("/api/slides/{key}/thumbnail.jpg", in_thread(lambda request: _thumbnail(bench, request))),
        Route("/api/slides/{key}/{version}.dzi", in_thread(lambda request: _description(bench, request))),
        Route(
            "/api/slides/{key}/{version}_files/{level:int}/{column:int}_{row:int}.jpeg",
            in_thread(lambda request: _tile(bench, request)),
        ),
        Route("/api/slides/{key}/maps", lambda request: JSONResponse(bench.maps.get(request.path_params["key"], []))),
        *question_routes(bench),
        *region_routes(bench),
        *case_routes(bench),
        Mount("/", StaticFiles(directory=STATIC, check_dir=False)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=bench.access)],
        exception_handlers={
            ChangedElsewhereError: changed_elsewhere,
            NotIndexedError: _not_indexed,
            NotReadError: _not_read,
            PathFLIPError: _failed,
            HTTPException: _http_error,
            UploadTooLargeError: _too_large,
            Exception: _unexpected,
        },
    )


# --- Pages -----------------------------------------------------------------------------------------------------------


def _page(bench: Workbench) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if not (STATIC / "index.html").is_file():
            raise PathFLIPError("the page of the workbench has not been built; run  make workbench")
        if "token" in request.query_params and "embed" not in request.query_params:
            # out of the address bar, the history and screenshots
            return bench.access.let_in(RedirectResponse("/", 303), request.url.scheme == "https")
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-store"})

    return endpoint


_LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>PathFLIP workbench</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<h1>PathFLIP workbench</h1><p>{message}</p>
<form method="post" action="/login"><label>Password <input type="password" name="password" autofocus required></label>
<button>Open</button></form><p>Research software, not a medical device.</p></html>
"""


def _login(bench: Workbench) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if bench.access.password is None:
            raise HTTPException(404, "no password is needed here: use the address that was printed")
        if request.method == "GET":
            wrong = "wrong" in request.query_params
            return HTMLResponse(_LOGIN.format(message="Wrong password." if wrong else "Enter the password."))
        fields = (await request.body()).decode("utf-8", "replace")
        from urllib.parse import parse_qs

        password = parse_qs(fields).get("password", [""])[0]
        return await anyio.to_thread.run_sync(login, bench.access, request, password)

    return endpoint


def _events(bench: Workbench) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(bench.events.stream(), media_type="text/event-stream")

    return endpoint


# --- Slides ----------------------------------------------------------------------------------------------------------


def _info(bench: Workbench, request: Request) -> Response:
    file = bench.file(request.path_params["key"])
    with bench.library.opened(file) as zoom:
        info = zoom.slide.info
        bounds = info.bounds0
        return JSONResponse(
            {
                "key": file.key,
                "id": shown_text(file.slide_id),
                "version": file.version(),
                "width": info.size0[0],
                "height": info.size0[1],
                "tile": zoom.tile_px,
                "mpp": info.mpp0,
                "vendor": info.vendor,
                "reader": info.reader,
                "bounds": None if bounds is None else [bounds.x, bounds.y, bounds.width, bounds.height],
            }
        )


@lru_cache(maxsize=8)
def _hatched(side: int) -> bytes:
    return unreadable_tile(side)


def _thumbnail(bench: Workbench, request: Request) -> Response:
    file = bench.file(request.path_params["key"])
    key = (file.key, file.version())
    data = bench.thumbnails.get(key)
    if data is None:
        with bench.library.opened(file) as zoom:
            data = encode_jpeg(zoom.thumbnail(THUMBNAIL_PX), 82)
        bench.thumbnails.put(key, data)
    return Response(data, media_type="image/jpeg", headers=_FOREVER if "v" in request.query_params else None)


def _description(bench: Workbench, request: Request) -> Response:
    with bench.library.opened(bench.file(request.path_params["key"])) as zoom:
        return Response(zoom.description(), media_type="application/xml")


def _tile(bench: Workbench, request: Request) -> Response:
    """A tile that cannot be read is hatched, and every page is told why: the slide stays usable."""
    place = request.path_params
    file = bench.file(place["key"])
    version, tile = file.version(), (place["level"], place["column"], place["row"])
    if version != place["version"]:
        raise HTTPException(409, "the slide's file has changed; reload the page")
    key = (file.key, version, *tile)
    data = bench.tiles.get(key)
    if data is not None:
        return Response(data, media_type="image/jpeg", headers=_FOREVER)
    with bench.library.opened(file) as zoom:
        if not zoom.has_tile(*tile):
            raise HTTPException(404, "no such tile")
        try:
            data, is_stored = zoom.tile(*tile)
        except SlideError as error:
            bench.events.publish("unreadable", slide=file.key, message=str(error))
            return Response(_hatched(zoom.tile_px), media_type="image/jpeg", headers={"X-Unreadable": "1"})
    if not is_stored:  # the stored ones lie in the file
        bench.tiles.put(key, data)
    return Response(data, media_type="image/jpeg", headers=_FOREVER)


# --- Errors ----------------------------------------------------------------------------------------------------------


async def _not_read(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error), "reason": "not read"}, 409)


async def _not_indexed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error), "reason": "not indexed"}, 409)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _too_large(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "more was sent than is allowed"}, 413)


async def _unexpected(request: Request, error: Exception) -> Response:
    line = json.dumps(f"{type(error).__name__}: {error}", ensure_ascii=True)
    print(f"pathflip view: {request.method} {request.url.path} failed: {line}", file=sys.stderr)  # noqa: T201
    return JSONResponse({"error": f"this failed inside the workbench ({type(error).__name__})"}, 500)
