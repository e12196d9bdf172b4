"""Routes of finding cases: a text, a slide or a region in, a page of slides out."""

from typing import Any

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pathflip.errors import CaptionError
from pathflip.geometry import Box
from pathflip.workbench.case_search import CaseSearch, Match
from pathflip.workbench.endpoints import Body, in_thread, with_body
from pathflip.workbench.running_workbench import Workbench

__all__ = ["case_routes"]

PAGE = 20


class RegionBody(Body):
    """A rectangle of the query slide, level-0 pixels."""

    x: int
    y: int
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Query(Body):
    """Either a text, or a slide's key, alone or with a region of it."""

    text: str = Field("", max_length=2000)
    slide: str | None = None
    region: RegionBody | None = None
    filters: dict[str, str] = Field(default_factory=dict)
    page: int = Field(0, ge=0)


def case_routes(bench: Workbench) -> list[Route]:
    """State and filters, search, pictures of slides that are not at hand."""

    def cases() -> CaseSearch:
        if bench.cases is None:
            raise HTTPException(
                404, "no cases to search: start with  pathflip view … --archive DIR, or --model DIR --features DIR"
            )
        return bench.cases

    def state(request: Request) -> Response:
        return JSONResponse({**cases().progress(), "columns": cases().columns()})

    def begin(request: Request) -> Response:
        cases().begin()
        return JSONResponse(cases().progress())

    def picture(request: Request) -> Response:
        data = cases().picture(request.query_params.get("id", ""))
        if data is None:
            raise HTTPException(404, "no picture of this slide")
        return Response(data, media_type="image/jpeg")

    def find(request: Request, query: Query) -> dict[str, Any]:
        matches = _matches(bench, cases(), query)
        pages = max(1, -(-len(matches) // PAGE))
        number = min(query.page, pages - 1)
        shown = matches[number * PAGE : (number + 1) * PAGE]
        if query.slide is None:
            shown = [cases().place(match, query.text) for match in shown]
        rows = [_row(bench, match) for match in shown]
        return {"total": len(matches), "page": number, "pages": pages, "matches": rows}

    return [
        Route("/api/cases", in_thread(state), methods=["GET"]),
        Route("/api/cases", in_thread(begin), methods=["POST"]),
        Route("/api/cases/picture.jpg", in_thread(picture), methods=["GET"]),
        Route("/api/cases/find", with_body(Query, find), methods=["POST"]),
    ]


def _matches(bench: Workbench, cases: CaseSearch, query: Query) -> list[Match]:
    if query.slide is None:
        if not query.text.strip():
            raise CaptionError("find cases: got nothing, expected words")
        return cases.by_text(query.text, query.filters)
    name = bench.file(query.slide).slide_id
    if query.region is None:
        return cases.by_slide(name, query.filters)
    region = query.region
    return cases.by_region(name, Box(region.x, region.y, region.width, region.height), query.filters)


def _row(bench: Workbench, match: Match) -> dict[str, Any]:
    file, box = bench.library.by_slide_id(match.slide_id), match.box
    return {
        "id": match.slide_id,
        "key": None if file is None else file.key,
        "version": None if file is None else file.version(),
        "picture": match.picture,
        "score": round(match.score, 3),
        "size": list(match.size0),
        "box": None if box is None else {"x": box.x, "y": box.y, "width": box.width, "height": box.height},
        "labels": dict(match.labels),
    }
