"""A Hugging Face Hub on 127.0.0.1: the part of its HTTP protocol that huggingface_hub 2.4 speaks without Xet.

Clients set `HF_HUB_DISABLE_XET=1`. Contents are kept under a folder, everything else in memory.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Self, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from . import catalog, community, jobs, transfer, webhooks
from .calls import Account, Call, Refusal, Reply
from .faults import Fault, Request
from .store import Store, chunks

ACCOUNTS = MappingProxyType({
    "hf_test": Account("tester", "write", ("tester-lab",)),
    "hf_read": Account("tester", "read", ("tester-lab",)),
    "hf_other": Account("other", "write"),
})
PIECE = 64 * 1024

REPO = r"(?P<namespace>[^/]+)/(?P<name>[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{REPO}"
WEB = rf"/(?:(?P<kind>datasets)/)?{REPO}"
REVISION = r"(?P<revision>[^/]+)"
JOBS = r"/api/jobs/(?P<namespace>[^/]+)"
SHA256 = r"(?P<sha256>[0-9a-f]{64})"
ROUTES: tuple[tuple[str, str, Callable[[Call], Reply]], ...] = (
    ("GET", r"/api/whoami-v2", catalog.whoami),
    ("POST", r"/api/validate-yaml", catalog.validate_card),
    ("POST", r"/api/repos/create", catalog.create),
    ("DELETE", r"/api/repos/delete", catalog.delete),
    ("GET", r"/api/models", catalog.list_models),
    ("GET", API, catalog.info),
    ("PUT", rf"{API}/settings", catalog.change_settings),
    ("GET", rf"{API}/revision/{REVISION}", catalog.info),
    ("GET", rf"{API}/auth-check(?P<write>/write)?", catalog.authorization),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", catalog.tree),
    ("POST", rf"{API}/paths-info/{REVISION}", catalog.paths_info),
    ("GET", rf"{API}/refs", catalog.refs),
    ("GET", rf"{API}/commits/{REVISION}", catalog.commits),
    ("POST", rf"{API}/branch/(?P<branch>[^/]+)", catalog.create_branch),
    ("POST", rf"{API}/tag/{REVISION}", community.create_tag),
    ("GET", rf"{API}/discussions", community.discussions),
    ("GET", rf"/api/collections/{REPO}", community.collection),
    ("POST", rf"/api/collections/{REPO}/items", community.add_to_collection),
    ("POST", r"/oauth/token", community.exchange_token),
    ("DELETE", rf"{API}/branch/(?P<branch>[^/]+)", webhooks.delete_branch),
    ("GET", r"/api/settings/webhooks", webhooks.listing),
    ("POST", r"/api/settings/webhooks", webhooks.create),
    ("POST", JOBS, jobs.run),
    ("GET", rf"{JOBS}/(?P<job>[^/]+)", jobs.inspect),
    ("GET", rf"{JOBS}/(?P<job>[^/]+)/logs", jobs.logs),
    ("POST", rf"{API}/preupload/{REVISION}", transfer.preupload),
    ("POST", rf"{API}/commit/{REVISION}", transfer.commit),
    ("POST", rf"{API}/lfs-files/duplicate", transfer.lfs_duplicate),
    ("POST", rf"{WEB}\.git/info/lfs/objects/batch", transfer.lfs_batch),
    ("POST", rf"{WEB}\.git/info/lfs/verify", transfer.lfs_verify),
    ("GET HEAD", rf"{WEB}/resolve/{REVISION}/(?P<path>.+)", transfer.resolve),
    ("PUT", rf"/-/storage/(?P<kind>models|datasets)/{REPO}/{SHA256}", transfer.lfs_upload),
    ("GET HEAD", rf"/-/storage/{SHA256}", transfer.download),
)


class LoopbackHub:
    """A Hub for the length of a `with` block, at `url`.

    Every request is in `requests`, in order of arrival. An exception inside the server is in `crashes`: it is a bug
    of the server, and the client only sees a closed connection. With `redirects_large_files` an LFS file is served as
    the real Hub does it: a redirect to a signed address on another host, which refuses an Authorization header. One
    that `ignores_ranges` answers with the whole file whatever part is asked for, as a server may.
    """

    def __init__(self, root: Path, *, accounts: Mapping[str, Account] = ACCOUNTS,
                 redirects_large_files: bool = False) -> None:
        self.store = Store(Path(root))
        self.accounts = dict(accounts)
        self.redirects_large_files = redirects_large_files
        self.ignores_ranges = False
        self.requests: list[Request] = []
        self.crashes: list[BaseException] = []
        self._faults: list[Fault] = []
        self._meetings: list[tuple[str, str, threading.Barrier]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_url(self) -> str | None:
        return f"http://localhost:{self.port}" if self.redirects_large_files else None

    def add_repo(self, repo_id: str, folder: Path, *, kind: str = "models", gated: bool = False,
                 private: bool = False, in_place: bool = False) -> str:
        """Publish the files of a folder and return the commit id. Again for the same name: a further commit.

        With `in_place` large files are served from where they lie, under a made-up SHA-256: sparse files of any size
        are neither copied nor read. They must not change while the Hub runs.
        """
        repository = (self.store.repositories.get((kind, repo_id))
                      or self.store.create(kind, repo_id, author=repo_id.split("/")[0]))
        repository.is_gated, repository.is_private = gated, private
        return self.store.commit_folder(repository, Path(folder), in_place=in_place).oid

    def grant(self, repo_id: str, user: str) -> None:
        """Let a user read the contents of a gated model, as its owner does by accepting a request."""
        self.store.repositories["models", repo_id].granted.add(user)

    def read(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        """The content of one file of a model. An unknown revision or path is a KeyError."""
        commit = self.store.repositories["models", repo_id].find(revision)
        if commit is None:
            raise KeyError(revision)
        return self.store.path(commit.files[path].sha256).read_bytes()

    def seen(self, method: str, path_regex: str) -> list[Request]:
        return [request for request in self.requests
                if request.method == method and re.search(path_regex, request.path)]

    def fail_next(self, method: str, path_regex: str, *, status: int = 500, times: int = 1, skip: int = 0,
                  headers: Mapping[str, str] | None = None) -> None:
        """Answer the next matching requests, after `skip` of them, with an error and do nothing else."""
        refusal = Refusal(status, "injected fault", headers=headers).reply
        self._faults.append(Fault(method, path_regex, times, refusal=refusal, skip=skip))

    def drop_next(self, method: str, path_regex: str, *, after_bytes: int = 0, times: int = 1) -> None:
        """Cut the connection of the next matching requests.

        It is cut once `after_bytes` of the request's body have arrived, or of the answer's body have been sent when the
        request has none. With more than the body is long, an upload or commit takes place and only its answer is lost.
        """
        self._faults.append(Fault(method, path_regex, times, cut_after=after_bytes))

    def change_next(self, method: str, path_regex: str, change: Callable[[Reply], Reply], *, times: int = 1) -> None:
        """Answer the next matching requests with what `change` makes of the true answer."""
        self._faults.append(Fault(method, path_regex, times, change=change))

    def expire_addresses(self) -> None:
        """From now on the storage refuses the signed addresses that were given out before."""
        self.store.signature = secrets.token_urlsafe(16)

    def meet_next(self, method: str, path_regex: str, count: int = 2) -> None:
        """Let the next matching requests wait for each other, so that they are served at the same time."""
        self._meetings += [(method, path_regex, barrier) for barrier in [threading.Barrier(count, timeout=60)] * count]

    def meet(self, request: Request) -> None:
        with self._lock:
            due = next((meeting for meeting in self._meetings
                        if meeting[0] == request.method and re.search(meeting[1], request.path)), None)
            if due:
                self._meetings.remove(due)
        if due:
            due[2].wait()

    def take_fault(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method == request.method and re.search(fault.path_regex, request.path) and fault.times > 0:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


class _Dropped(Exception):
    """The connection is gone, or has to go."""


class _Server(ThreadingHTTPServer):
    """Waits for its threads at the end, and ends the connections that clients keep open so that it can."""

    daemon_threads = False

    def __init__(self, hub: LoopbackHub) -> None:
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self.connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.hub.crashes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes: with Nagle's algorithm the second waits for the client's acknowledgement.
    disable_nagle_algorithm = True

    def date_time_string(self, timestamp: float | None = None) -> str:
        # The Date of every answer, which clients read to learn what time it is on the Hub.
        return super().date_time_string(cast(_Server, self.server).hub.store.time().timestamp())

    def log_message(self, format: str, *args: object) -> None:
        pass

    def serve(self) -> None:
        hub, target = cast(_Server, self.server).hub, urlsplit(self.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        request = Request(self.command, unquote(target.path), target.query, self.headers.get("Range"), token)
        hub.requests.append(request)
        hub.meet(request)
        fault = hub.take_fault(request)
        body = self._body(request, fault.cut_after if fault else None)
        try:
            reply = fault.refusal if fault and fault.refusal else self._answer(hub, target, body)
            # What an endpoint left unread would be taken for the next request of this connection.
            for _ in body:
                pass
            reply = fault.change(reply) if fault and fault.change else reply
            self._send(reply, request, fault.cut_after if fault else None)
        except (_Dropped, ConnectionError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _answer(self, hub: LoopbackHub, target: SplitResult, body: Iterator[bytes]) -> Reply:
        try:
            for methods, pattern, endpoint in ROUTES:
                match = re.fullmatch(pattern, target.path)
                if match and self.command in methods.split():
                    parts = {name: unquote(part) for name, part in match.groupdict().items() if part}
                    account = None if target.path.startswith("/-/") else self._account(hub)
                    if hub.ignores_ranges:
                        del self.headers["Range"]
                    return endpoint(Call(hub.store, hub.url, hub.storage_url, parts, parse_qs(target.query),
                                         self.headers, account, body))
            raise Refusal(501, f"the loopback Hub has no {self.command} {target.path}")
        except Refusal as refusal:
            return refusal.reply

    def _account(self, hub: LoopbackHub) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return hub.accounts.get(token)

    def _body(self, request: Request, cut_after: int | None) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length", 0))
        while left:
            if cut_after is not None and request.bytes_in >= cut_after:
                raise _Dropped
            most = PIECE if cut_after is None else min(PIECE, cut_after - request.bytes_in)
            piece = self.rfile.read1(min(left, most))
            if not piece:
                raise _Dropped
            left -= len(piece)
            request.bytes_in += len(piece)
            yield piece

    def _send(self, reply: Reply, request: Request, cut_after: int | None) -> None:
        if cut_after is not None and request.bytes_in:
            raise _Dropped
        payload = b"" if reply.payload is None else json.dumps(reply.payload).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", **reply.headers,
                   "Content-Length": str(reply.length if reply.file else len(payload))}
        request.status = int(reply.status)
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in chunks(reply.file, reply.start, reply.length) if reply.file else (payload,):
            sent = piece if cut_after is None else piece[: cut_after - request.bytes_out]
            request.bytes_out += len(sent)
            self.wfile.write(sent)
            if sent != piece:
                raise _Dropped
