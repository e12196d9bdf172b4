"""Routes of what is asked of the model about a slide."""

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pathflip.workbench.endpoints import Body, in_thread, with_body

if TYPE_CHECKING:
    from pathflip.workbench.app import Workbench

__all__ = ["question_routes"]


class Phrase(Body):
    """Where is this?"""

    text: str


class Report(Body):
    """Is this so?"""

    text: str


def question_routes(bench: "Workbench") -> list[Route]:
    """Reading a slide, where, check."""

    def reading(request: Request) -> Response:
        return JSONResponse(bench.model().reading(bench.file(request.path_params["key"])))

    def read(request: Request) -> Response:
        return JSONResponse(bench.model().read(bench.file(request.path_params["key"])))

    def where(request: Request, phrase: Phrase) -> dict[str, Any]:
        return bench.model().where(bench.file(request.path_params["key"]), phrase.text)

    def check(request: Request, report: Report) -> dict[str, Any]:
        return bench.model().check(bench.file(request.path_params["key"]), report.text)

    return [
        Route("/api/slides/{key}/reading", in_thread(reading), methods=["GET"]),
        Route("/api/slides/{key}/reading", in_thread(read), methods=["POST"]),
        Route("/api/slides/{key}/where", with_body(Phrase, where), methods=["POST"]),
        Route("/api/slides/{key}/check", with_body(Report, check), methods=["POST"]),
    ]
