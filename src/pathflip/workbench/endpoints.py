"""How requests become calls: work that blocks goes to a thread, and what a page sends is checked first."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = ["Body", "Endpoint", "in_thread", "read_body", "with_body"]

Endpoint = Callable[[Request], Awaitable[Response]]


class Body(BaseModel):
    """What a page sends; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Sent = TypeVar("Sent", bound=Body)


def in_thread(work: Callable[[Request], Response]) -> Endpoint:
    """An endpoint that blocks (reading slides does), beside the loop that serves everybody."""

    async def endpoint(request: Request) -> Response:
        return await anyio.to_thread.run_sync(work, request)

    return endpoint


def with_body(kind: type[Sent], work: Callable[[Request, Sent], Any]) -> Endpoint:
    """An endpoint that takes JSON of one kind and answers with JSON, its work done in a thread."""

    async def endpoint(request: Request) -> Response:
        sent = await read_body(request, kind)
        return JSONResponse(await anyio.to_thread.run_sync(work, request, sent))

    return endpoint


async def read_body(request: Request, kind: type[Sent]) -> Sent:
    """The JSON a page sent; 400 with the field's name where it is not of this kind."""
    try:
        return kind.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the request"
        raise HTTPException(400, f"{place}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the request is not JSON ({error})") from None
