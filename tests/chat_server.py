"""A chat-completions server on this machine that fails on order: ``with ChatServer(script) as server``."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import parse_sub_caption


def sub_captions_of(report: str) -> list[dict[str, Any]]:
    """What a faithful model answers: the report's sentences."""
    parsed = [parse_sub_caption(sentence) for sentence in split_sentences(report)]
    return [
        {"text": p.text, "concept": "finding", "visual": p.visual, "polarity": "absent" if p.negated else "present"}
        for p in parsed
    ]


def completion(content: str, finish_reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }


class ChatServer:
    """Answers faithfully, after the faults of ``script``: one a request, None for an answer.

    An entry is a status code, ``(status, headers)``, "truncated", "length", "schema", "text", "slow", "drop", "html",
    "drip" (a byte at a time), a whole body as bytes, ``{"headers": …, "body": …}``, or a function from a report to the
    answer's text.
    """

    def __init__(self, script: Iterable[Any] = (), always: Any = None, slow_s: float = 0.6) -> None:
        self.script, self.always, self.slow_s = iter(script), always, slow_s
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.running = self.most_running = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *words: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *words: Any) -> None:
                pass  # a client that hangs up is part of the tests

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> "ChatServer":
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def reports(self) -> list[str]:
        """The report of every request, in order."""
        return [request["messages"][1]["content"].removeprefix("Report:\n") for request in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.requests.append(request)
            self.paths.append(handler.path)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
            self.times.append(time.monotonic())
            fault = next(self.script, self.always)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self.reply(handler, request["messages"][1]["content"].removeprefix("Report:\n"), fault)
        finally:
            with self.lock:
                self.running -= 1

    def reply(self, handler: BaseHTTPRequestHandler, report: str, fault: Any) -> None:
        good = json.dumps({"statements": sub_captions_of(report)}, ensure_ascii=False)
        texts: dict[Any, Callable[[], dict[str, Any]]] = {
            None: lambda: completion(good),
            "slow": lambda: completion(good),
            "truncated": lambda: completion(good[: len(good) // 2]),
            "length": lambda: completion(good[: len(good) // 2], "length"),
            "schema": lambda: completion(json.dumps({"statements": [{"text": "A.", "visual": "yes"}]})),
            "text": lambda: completion("I am sorry, I cannot do that."),
        }
        if fault == "drop":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        if fault == "slow":
            time.sleep(self.slow_s)
        if isinstance(fault, bytes):
            self.send(handler, 200, {}, fault)
        elif fault == "drip":
            handler.send_response(200)
            handler.send_header("content-length", "1000")
            handler.end_headers()
            for _ in range(50):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.1)
            handler.close_connection = True
        elif isinstance(fault, dict):
            self.send(handler, 200, fault["headers"], fault["body"])
        elif fault == "html":
            self.send(handler, 200, {}, b"<html>gateway</html>")
        elif callable(fault):
            self.send(handler, 200, {}, json.dumps(completion(fault(report))).encode())
        elif isinstance(fault, int | tuple):
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self.send(handler, status, headers, json.dumps({"error": {"message": f"fault {status}"}}).encode())
        else:
            self.send(handler, 200, {}, json.dumps(texts[fault]()).encode())

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        handler.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
