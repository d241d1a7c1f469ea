"""A judge on 127.0.0.1: speaks just enough of the chat completions protocol, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def says(text: str) -> Reply:
    """A chat completion with that text."""
    return Reply(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())


class JudgeServer:
    """For the length of a `with` block, at `url`. `answer` is called with the number of the request and what was asked.

    It answers None by keeping silent until the block ends. Requests and their Authorization headers are kept. `refuses`, if it is
    set, sees the whole body first and may answer instead.
    """

    refuses: Callable[[dict[str, Any]], Reply | None] | None = None

    def __init__(self, answer: Callable[[int, str], Reply | None]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._answer = answer
        self._lock = threading.Lock()
        self._done = threading.Event()

    def __enter__(self) -> Self:
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with judge._lock:
                    judge.asked.append(body)
                    judge.keys.append(self.headers.get("Authorization"))
                    number = len(judge.asked)
                if self.path != "/v1/chat/completions":
                    reply = Reply(404, b"{}")
                elif judge.refuses and (refusal := judge.refuses(body)):
                    reply = refusal
                elif (reply := judge._answer(number, body["messages"][-1]["content"])) is None:
                    judge._done.wait()
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"
