"""Repositories to read by range, and the connection with which a test reads them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ember_hub.source.remote_connection import Connection
from tests.hub.server import LoopbackHub

EMBEDDING = "model.embed_tokens.weight"


def connection_to(hub: LoopbackHub, token: str = "hf_test", **changes: object) -> Connection:
    """A connection that tries again at once, so that no test waits."""
    return Connection(**{"endpoint": hub.url, "token": token, "first_pause": 0.0, **changes})


def write_safetensors(path: Path, header: dict | bytes, data: bytes, *, announced: int | None = None) -> Path:
    """A file as one wants it, also one that no library would write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if announced is None else announced) + text + data)
    return path


def tensor(shape: tuple[int, ...], start: int, stop: int, code: str = "F32") -> dict[str, object]:
    return {"dtype": code, "shape": list(shape), "data_offsets": [start, stop]}
