"""Any server that speaks the OpenAI chat-completions protocol: vLLM, Ollama, llama.cpp, LM Studio, or one on the net.

What goes wrong out there and what is done about it: 408, 409, 425, 429, 5xx, dropped connections and time-outs are
tried again after a growing pause, or after what ``Retry-After`` asks; 401, 403, 404 and redirections end the run, since
every other report would meet them too; an answer that is no JSON or has another shape is asked for again with what was
wrong; three reports in a row that cannot be delivered end the run. Every good answer is kept at once, so a run that
ends goes on where it stopped.
"""

import asyncio
import ipaddress
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pathflip.errors import ConfigError, PathFLIPError, ServerError
from pathflip.text.decompose.replies import SCHEMA, ReplyError, ReplySubCaption, messages, prompt, read_reply

__all__ = ["Estimate", "ServerSpec", "Usage", "ask_server", "estimate", "is_local"]

_AGAIN = frozenset([408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529])
_HOPELESS = frozenset([401, 403, 404, 405])
_LONGEST_PAUSE_S = 120.0
_LONGEST_RETRY_AFTER_S = 900.0
_UNREACHED_IN_A_ROW = 3
_MOST_BYTES = 16 << 20
"""Of an answer, unpacked: 500 sentences are under a megabyte. A server that sends more is broken or means harm."""
_CHARACTERS_PER_TOKEN = 4.0
"""English prose in the tokenizers of today's models; an estimate is no more than that."""
_ANSWER_PER_REPORT = 2.5
"""Tokens of an answer per token of its report: the report's words, and JSON around every sentence."""


class ServerSpec(BaseModel):
    """Which server is asked, and how.

    ``url`` is the server's base (``http://localhost:11434/v1``); nothing is sent anywhere else. ``api_key_env`` names
    the environment variable that holds the key, if one is needed. Prices are per million tokens, in any currency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["server"] = "server"
    url: str
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    temperature: float = Field(default=0.0, ge=0)
    seed: int = 0
    max_tokens: int = Field(default=4096, ge=16)
    concurrency: int = Field(default=4, ge=1, le=256)
    requests_per_min: float | None = Field(default=None, gt=0)
    timeout_s: float = Field(default=120.0, gt=0)
    tries: int = Field(default=6, ge=1)
    first_pause_s: float = Field(default=1.0, ge=0)
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)

    @field_validator("url")
    @classmethod
    def _has_host(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"got '{url}', expected http://HOST:PORT/v1 or https://…")
        return url.rstrip("/")

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        if self.url.endswith("/chat/completions"):
            return self.url
        return self.url + ("/chat/completions" if urlsplit(self.url).path else "/v1/chat/completions")

    @property
    def parameters(self) -> dict[str, Any]:
        """What an answer depends on besides prompt, model and report: part of the cache key."""
        names = ("response_format", "temperature", "seed", "max_tokens")
        return {name: getattr(self, name) for name in names}


def is_local(url: str) -> bool:
    """Whether a URL names this machine, by its letters alone: ``localhost`` or a loopback address."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class Usage:
    """What a run has asked and been given."""

    requests: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Estimate:
    """Tokens and cost before the start; cost is None where no price was given."""

    reports: int
    tokens_in: int
    tokens_out: int
    cost: float | None


def estimate(texts: Sequence[str], spec: ServerSpec) -> Estimate:
    """About what asking about ``texts`` will use: four characters a token, answers 2.5 times their report."""
    shared = len(prompt().text) / _CHARACTERS_PER_TOKEN + 20
    of_reports = sum(len(text) for text in texts) / _CHARACTERS_PER_TOKEN
    tokens_in = round(of_reports + shared * len(texts))
    tokens_out = round(of_reports * _ANSWER_PER_REPORT)
    priced = spec.price_in or spec.price_out
    cost = (tokens_in * spec.price_in + tokens_out * spec.price_out) / 1e6 if priced else None
    return Estimate(len(texts), tokens_in, tokens_out, cost)


def ask_server(
    texts: Mapping[int, str],
    spec: ServerSpec,
    on_reply: Callable[[int, list[ReplySubCaption] | str], None],
    usage: Usage,
) -> None:
    """Ask about every text; ``on_reply`` gets its sub-captions, or one line on why there are none.

    Raises:
        ServerError: the server cannot be reached, or refuses everything.
        ConfigError: the environment variable for the key is empty.
    """
    asker = _Asker(spec, on_reply, usage)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(asker.run(texts))
        return
    import threading  # a notebook's loop is running: ours gets a thread of its own

    failed: list[BaseException] = []

    def job() -> None:
        try:
            asyncio.run(asker.run(texts))
        except BaseException as error:  # handed over to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


class _TryAgainError(Exception):
    """A request failed in a way that may pass; ``after_s`` is what the server asks to wait."""

    def __init__(self, line: str, after_s: float | None = None) -> None:
        super().__init__(line)
        self.after_s = after_s


@dataclass(frozen=True)
class _ServerAnswer:
    """Status, headers and the unpacked body of an answer."""

    status_code: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        """The body as JSON in UTF-8, as the protocol has it, whatever the headers say.

        Raises:
            ValueError: it is not, or is nested so deep that nobody could mean it.
        """
        try:
            return json.loads(self.body.decode("utf-8", errors="replace"))
        except RecursionError:
            raise ValueError("nested too deep") from None


@dataclass
class _Asker:
    """One run over many reports."""

    spec: ServerSpec
    on_reply: Callable[[int, list[ReplySubCaption] | str], None]
    usage: Usage
    not_before: float = 0.0
    """No request starts before this time: the rate limit and ``Retry-After`` hold for all of them."""
    unreached: int = 0
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, texts: Mapping[int, str]) -> None:
        waiting = iter(texts.items())
        async with self._client() as client:

            async def worker() -> None:
                for place, text in waiting:
                    self.on_reply(place, await self._one(client, text))

            workers = [asyncio.create_task(worker()) for _ in range(min(self.spec.concurrency, len(texts)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _client(self) -> httpx.AsyncClient:
        headers = {}
        if self.spec.api_key_env:
            key = os.environ.get(self.spec.api_key_env, "").strip()
            if not key:
                raise ConfigError(
                    f"--api-key-env: the environment variable '{self.spec.api_key_env}' is empty or not set"
                )
            headers["Authorization"] = f"Bearer {key}"
        # Proxies of the environment are for servers on the net: text for this machine must not go through one.
        # Redirections are not followed: they would send it where the user did not say.
        return httpx.AsyncClient(
            headers=headers,
            timeout=self.spec.timeout_s,
            trust_env=not is_local(self.spec.url),
            follow_redirects=False,
            limits=httpx.Limits(max_connections=self.spec.concurrency),
        )

    async def _one(self, client: httpx.AsyncClient, text: str) -> list[ReplySubCaption] | str:
        """A report's sub-captions, or why there are none."""
        failed: tuple[str, str] | None = None
        room, line = self.spec.max_tokens, ""
        for attempt in range(self.spec.tries):
            self.usage.retries += attempt > 0
            try:
                content, cut_off = await self._post(client, text, failed, room)
                self.unreached = 0
                return read_reply(content)
            except _TryAgainError as error:
                line = str(error)
                if error.after_s is not None and error.after_s > _LONGEST_RETRY_AFTER_S:
                    raise ServerError(f"{line}; it asks to wait {error.after_s:.0f} s: run again then") from None
                pause = self.spec.first_pause_s * 2**attempt if error.after_s is None else error.after_s
                if attempt + 1 < self.spec.tries:
                    await self._pause(min(pause, _LONGEST_RETRY_AFTER_S), everyone=error.after_s is not None)
            except ReplyError as error:
                line = f"the answer cannot be used: {error}"
                failed = None if cut_off else (content, str(error))
                room *= 2 if cut_off else 1
            except PathFLIPError as error:
                if isinstance(error, ServerError | ConfigError):
                    raise
                return str(error)
        if line.startswith("no answer"):
            self.unreached += 1
            if self.unreached >= _UNREACHED_IN_A_ROW:
                raise ServerError(f"{line}; gave up after {self.unreached} reports in a row: is the server running?")
        return f"{line} ({self.spec.tries} tries)"

    async def _pause(self, seconds: float, everyone: bool) -> None:
        if everyone:
            self.not_before = max(self.not_before, monotonic() + seconds)
        await asyncio.sleep(min(seconds, _LONGEST_PAUSE_S) if not everyone else 0)

    async def _turn(self) -> None:
        """Wait until another request may start."""
        async with self.gate:
            while (left := self.not_before - monotonic()) > 0:
                await asyncio.sleep(left)
            if self.spec.requests_per_min:
                self.not_before = monotonic() + 60 / self.spec.requests_per_min

    async def _post(
        self, client: httpx.AsyncClient, text: str, failed: tuple[str, str] | None, room: int
    ) -> tuple[str, bool]:
        """The answer's text, and whether it was cut off at the length limit."""
        await self._turn()
        self.usage.requests += 1
        try:
            async with asyncio.timeout(self.spec.timeout_s):  # of the whole answer: httpx's limits hold for each piece
                response = await self._answer(client, self._body(text, failed, room))
        except (httpx.TimeoutException, TimeoutError):
            raise _TryAgainError(f"no answer within {self.spec.timeout_s:g} s from {self.spec.endpoint}") from None
        except httpx.HTTPError as error:
            message = str(error) or type(error).__name__
            raise _TryAgainError(f"no answer from {self.spec.endpoint} ({message})") from None
        self._check_status(response)
        return self._content(response)

    async def _answer(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> _ServerAnswer:
        """The whole answer, as long as it stays under :data:`_MOST_BYTES` unpacked."""
        async with client.stream("POST", self.spec.endpoint, json=body) as response:
            parts, size = [], 0
            async for part in response.aiter_bytes():
                size += len(part)
                if size > _MOST_BYTES:
                    raise _TryAgainError(
                        f"{self.spec.endpoint} sent more than {_MOST_BYTES >> 20} MB, expected a chat completion; "
                        "check --url and --model"
                    )
                parts.append(part)
            return _ServerAnswer(response.status_code, response.headers, b"".join(parts))

    def _body(self, text: str, failed: tuple[str, str] | None, room: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.spec.model,
            "messages": messages(text, failed),
            "temperature": self.spec.temperature,
            "seed": self.spec.seed,
            "max_tokens": room,
        }
        if self.spec.response_format == "json_schema":
            schema = {"name": "statements", "strict": True, "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.spec.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def _check_status(self, response: _ServerAnswer) -> None:
        code = response.status_code
        if code == 200:
            return
        line = f"{self.spec.endpoint} answered {code}: {self._without_key(_said(response))}"
        if code in _AGAIN:
            raise _TryAgainError(line, _retry_after(response))
        if 300 <= code < 400:
            target = plain_line(response.headers.get("location", "elsewhere"))
            raise ServerError(f"{self.spec.endpoint} redirects to {target}; name that server itself if you mean it")
        if code in _HOPELESS:
            hint = {401: "; give the key with --api-key-env NAME", 404: "; check --url and --model"}.get(code, "")
            raise ServerError(line + hint)
        if "response_format" in line or "json_schema" in line:
            raise ServerError(f"{line}; try --response-format json_object or none")
        raise PathFLIPError(line)

    def _without_key(self, text: str) -> str:
        """A server's words, less the key that some servers repeat in their refusals."""
        key = os.environ.get(self.spec.api_key_env or "", "").strip()
        return text.replace(key, "[key]") if key else text

    def _content(self, response: _ServerAnswer) -> tuple[str, bool]:
        try:
            body = response.json()
            choice = body["choices"][0]
            content = choice["message"]["content"]
            spent = body.get("usage") or {}
            self.usage.tokens_in += _count(spent.get("prompt_tokens"))
            self.usage.tokens_out += _count(spent.get("completion_tokens"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _TryAgainError(f"{self.spec.endpoint} answered something that is no chat completion") from None
        return content if isinstance(content, str) else "", choice.get("finish_reason") == "length"


def _count(value: Any) -> int:
    """A number of tokens as a server states it; nonsense counts as none."""
    return value if isinstance(value, int) and 0 <= value < 2**40 else 0


def _said(response: _ServerAnswer) -> str:
    """What the server says about its refusal, on one line."""
    try:
        body = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        text = error.get("message") or error.get("detail") or str(error) if isinstance(error, dict) else str(error)
    except ValueError:
        text = response.body[:1000].decode("utf-8", errors="replace")
    return plain_line(str(text)) or "nothing more"


def plain_line(text: str, longest: int = 200) -> str:
    """A foreign text on one line, without control characters that a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * longest]).split())[:longest]


def _retry_after(response: _ServerAnswer) -> float | None:
    """Seconds the server asks to wait: ``Retry-After`` as seconds or as a date (RFC 9110)."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:  # RFC 9110 allows GMT alone, so a date that names no zone means it
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
