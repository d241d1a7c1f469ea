"""One file of a repository at one commit, read by byte ranges.

The address of a large file is asked for once; parts come from the storage behind it. Each part is checked to be the
part that was asked for, of the version that was asked for, and is asked for again after a passing failure.

Source: RFC 9110, sections 10.2.3 and 14 (Retry-After, range requests).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ember_hub.errors import CorruptCheckpoint, NoRangedReads, SourceError
from ember_hub.source.hub import hub_errors
from ember_hub.source.ref import ModelRef
from ember_hub.source.remote_connection import Connection, PassingFailure, Traffic, raise_if_passing, said

if TYPE_CHECKING:
    import httpx2

DOWNLOAD_INSTEAD = "download the model (`hf download {repo}`) and name its folder instead"
_EXPIRED = (400, 401, 403, 404, 410)
_PART = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class _Address:
    """Where parts come from: the Hub itself, or a storage that knows its reader by the address alone."""

    url: str
    is_storage: bool


class RemoteFile:
    """A file whose size and version are known; `find` makes one."""

    def __init__(self, ref: ModelRef, path: str, connection: Connection, traffic: Traffic) -> None:
        self.path = path
        self.name = f"{ref.location}/{path}"
        self.size = -1
        self.etag = ""
        """What tells versions of the file apart: for a large file the sha256 of its content."""
        self._ref, self._connection, self._traffic = ref, connection, traffic
        self._address = _Address("", False)
        self._storage_etag: str | None = None
        self._lock = threading.Lock()

    @classmethod
    def find(cls, ref: ModelRef, path: str, connection: Connection, traffic: Traffic) -> RemoteFile | None:
        """The file, or None if the commit `ref.revision` has none at this path.

        Raises:
            ModelNotFound, GatedModel, SourceError: the repository cannot be read.
            CorruptCheckpoint: the server answers for another commit.
            NoRangedReads: it does not tell how large the file is.
        """
        from huggingface_hub.errors import RemoteEntryNotFoundError

        file = cls(ref, path, connection, traffic)
        with hub_errors(ref):
            try:
                connection.patiently(file.name, file._look_up)
            except RemoteEntryNotFoundError:
                return None
        return file

    def read(self, start: int, stop: int, stopped: threading.Event | None = None) -> bytearray:
        """The bytes `[start, stop)`; what arrived before a failure is not asked for again.

        Args:
            stopped: once set, no further try is made.

        Raises:
            NoRangedReads: the server does not give the part that was asked for.
            CorruptCheckpoint: the file changed while it was read.
            SourceError: the server cannot be reached, or keeps failing.
        """
        part, position = bytearray(stop - start), 0

        def read_on() -> int:
            nonlocal position
            for piece in self._pieces(start + position, stop):
                part[position : position + len(piece)] = piece
                position += len(piece)
            if position < len(part):
                raise PassingFailure(f"the answer ended after {position:,} of {len(part):,} bytes")
            return position

        with hub_errors(self._ref):
            self._connection.patiently(self.name, read_on, reached=lambda: position, stopped=stopped)
        return part

    def read_whole(self) -> bytes:
        """All of a small file, asked for as a whole, as the Hub promises parts of large files only.

        Raises:
            CorruptCheckpoint: it is not as long as was announced.
            SourceError: the server cannot be reached, or keeps failing.
        """
        with hub_errors(self._ref):
            content = self._connection.patiently(self.name, self._whole)
        if len(content) != self.size:
            raise self._changed(f"{len(content):,} bytes instead of {self.size:,}")
        return content

    def _look_up(self) -> None:
        """Asks the Hub where the file lies, and checks that it is the same file as before."""
        import httpx2
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        url = hf_hub_url(self._ref.location, self.path, revision=self._ref.revision, endpoint=self._connection.endpoint)
        self._traffic.add(requests=1)
        try:
            found = get_hf_file_metadata(url, token=self._connection.token, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        except httpx2.TransportError as error:
            raise PassingFailure(said(error)) from error
        except HfHubHTTPError as error:
            raise_if_passing(error.response)
            raise
        except ValueError as error:
            raise SourceError(f"the Hub gives no usable address for {self.name}: {said(error)}",
                              hint="check HF_ENDPOINT, and that no proxy answers in the Hub's place") from error
        if found.commit_hash != self._ref.revision:
            raise self._changed(f"the server answers for commit {found.commit_hash}, not {self._ref.revision}")
        if found.size is None or found.etag is None:
            raise self._no_parts("does not tell how large the file is, and which version")
        if self.etag and (found.etag, found.size) != (self.etag, self.size):
            raise self._changed(f"it is {found.etag} now and was {self.etag}")
        self.etag, self.size = found.etag, found.size
        self._address = _Address(found.location, urlsplit(found.location)[:2] != urlsplit(url)[:2])

    def _pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes `[start, stop)` as they arrive; fewer if the connection ends."""
        import httpx2
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers

        address, left = self._address, stop - start
        # A signed address is a key of its own: a token beside it is refused, and would be told to a stranger.
        headers = build_hf_headers(token=False if address.is_storage else self._connection.token)
        headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        self._traffic.add(requests=1)
        try:
            with get_session().stream("GET", address.url, headers=headers,
                                      timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
                self._check(response, address, start, stop)
                for piece in response.iter_raw():
                    self._traffic.add(bytes=len(piece))
                    left -= len(piece)
                    if left < 0:
                        raise self._no_parts("sends more than was asked for")
                    yield piece
        except httpx2.TransportError as error:
            raise PassingFailure(said(error)) from error

    def _check(self, response: httpx2.Response, address: _Address, start: int, stop: int) -> None:
        from huggingface_hub.utils import hf_raise_for_status

        status = response.status_code
        raise_if_passing(response)
        if status != 206:
            if address.is_storage and status in _EXPIRED:
                self._renew(address)
                raise PassingFailure(f"the storage answers {status}")
            response.read()
            if status != 416:
                hf_raise_for_status(response)
            raise self._no_parts(f"answers {status} to a request for a part of it")
        part = _PART.fullmatch(response.headers.get("Content-Range", ""))
        if part is not None and int(part[3]) != self.size:
            raise self._changed(f"it has {int(part[3]):,} bytes now and had {self.size:,}")
        if part is None or (int(part[1]), int(part[2]) + 1) != (start, stop):
            raise self._no_parts(f"gives {response.headers.get('Content-Range')!r} for bytes {start}-{stop - 1}")
        self._check_version(response.headers, address)

    def _check_version(self, headers: Mapping[str, str], address: _Address) -> None:
        commit = headers.get("X-Repo-Commit", self._ref.revision)
        if commit != self._ref.revision:
            raise self._changed(f"the server answers for commit {commit}, not {self._ref.revision}")
        etag = headers.get("ETag", "").removeprefix("W/").strip('"')
        if not etag or not address.is_storage:
            return
        # A storage has tags of its own making: what counts is that they stay the same.
        with self._lock:
            self._storage_etag = self._storage_etag or etag
        if etag != self._storage_etag:
            raise self._changed(f"the storage calls it {etag} now and called it {self._storage_etag}")

    def _renew(self, expired: _Address) -> None:
        with self._lock:
            # Requests that run into the same expiry ask once.
            if self._address is expired:
                self._look_up()

    def _whole(self) -> bytes:
        import httpx2
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        address = self._address
        headers = build_hf_headers(token=False if address.is_storage else self._connection.token)
        self._traffic.add(requests=1)
        try:
            response = get_session().get(address.url, headers=headers | {"Accept-Encoding": "identity"},
                                         timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        except httpx2.TransportError as error:
            raise PassingFailure(said(error)) from error
        raise_if_passing(response)
        hf_raise_for_status(response)
        self._check_version(response.headers, address)
        self._traffic.add(bytes=len(response.content))
        return response.content

    def _changed(self, how: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.name} changed while it was read: {how}",
                                 hint="run the same command again; if it stays so, the server mixes versions")

    def _no_parts(self, what: str) -> NoRangedReads:
        return NoRangedReads(f"the server of {self.name} {what}",
                             hint=DOWNLOAD_INSTEAD.format(repo=self._ref.location))
