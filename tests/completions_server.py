"""A chat-completions server with a real language model behind it: ``with serve(answer) as (url, asked)``."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chat_server import completion


@contextmanager
def serve(answer: Callable[[list[dict[str, str]]], str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address and the requests it got; ``answer`` makes a conversation's next turn, one request at a time."""
    asked: list[dict[str, Any]] = []
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with one_at_a_time:
                asked.append(request)
                body = json.dumps(completion(answer(request["messages"]))).encode()
            self.send_response(200 if self.path == "/v1/chat/completions" else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1", asked
    finally:
        http.shutdown()
        http.server_close()
