"""Routes of what is asked of the model about a slide."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pathflip.errors import PathFLIPError
from pathflip.workbench.endpoints import Body, in_thread, read_body, with_body
from pathflip.workbench.running_workbench import Workbench
from pathflip.workbench.service import NotReadError

__all__ = ["question_routes"]


class Phrase(Body):
    """A request: where on the slide is this phrase?"""

    text: str


class ReportBody(Body):
    """A request: is this report true of the slide?"""

    text: str


class QuestionBody(Body):
    """A request: a question about some slides; without one they are described."""

    slides: list[str] = Field(min_length=1, max_length=8)
    question: str = ""
    history: list[tuple[Literal["user", "assistant"], str]] = Field([], max_length=20)


def question_routes(bench: Workbench) -> list[Route]:
    """Reading a slide, where, check, talk."""

    def reading(request: Request) -> Response:
        return JSONResponse(bench.model().reading(bench.file(request.path_params["key"])))

    def read(request: Request) -> Response:
        return JSONResponse(bench.model().read(bench.file(request.path_params["key"])))

    def where(request: Request, phrase: Phrase) -> dict[str, Any]:
        return bench.model().where(bench.file(request.path_params["key"]), phrase.text)

    def check(request: Request, report: ReportBody) -> dict[str, Any]:
        return bench.model().check(bench.file(request.path_params["key"]), report.text)

    async def talk(request: Request) -> Response:
        sent = await read_body(request, QuestionBody)
        files = [bench.file(key) for key in sent.slides]
        model = bench.model()

        def work(stream: Callable[[str], None]) -> dict[str, Any]:
            return model.talk(files, sent.question, sent.history, stream)

        return StreamingResponse(_told_as_it_comes(work), media_type="text/event-stream")

    return [
        Route("/api/talk", talk, methods=["POST"]),
        Route("/api/slides/{key}/reading", in_thread(reading), methods=["GET"]),
        Route("/api/slides/{key}/reading", in_thread(read), methods=["POST"]),
        Route("/api/slides/{key}/where", with_body(Phrase, where), methods=["POST"]),
        Route("/api/slides/{key}/check", with_body(ReportBody, check), methods=["POST"]),
    ]


async def _told_as_it_comes(work: Callable[[Callable[[str], None]], dict[str, Any]]) -> AsyncIterator[str]:
    """Words as they are written, then the whole answer, or why there is none."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    def tell(kind: str, **content: Any) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, (kind, content))

    def run() -> None:
        try:
            answer = work(lambda words: tell("words", text=words))
        except NotReadError as error:
            tell("failed", error=str(error), reason="not read")
        except PathFLIPError as error:
            tell("failed", error=str(error))
        except Exception as error:  # a language model's own: the page must not wait for ever
            tell("failed", error=f"the answer failed ({type(error).__name__}: {error})")
        else:
            tell("answer", **answer)

    threading.Thread(target=run, name="pathflip-talk", daemon=True).start()
    kind = ""
    while kind not in ("answer", "failed"):
        kind, content = await queue.get()
        yield f"event: {kind}\ndata: {json.dumps(content, ensure_ascii=True)}\n\n"
