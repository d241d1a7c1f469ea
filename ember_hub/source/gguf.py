"""Turns a GGUF file into a plain checkpoint folder, once, in a cache.

Quantized weights are expanded to bfloat16; what quantization lost stays lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ember_hub.errors import CorruptCheckpoint, DiskError, UnsupportedModel
from ember_hub.progress import Progress, Quiet
from ember_hub.source.anatomy import first_line
from ember_hub.source.load import transformers_reports_to

_MAGIC = b"GGUF"
_CHUNK = 1 << 24
# What a quantizer's author called the model, or where it lay: not ours to publish.
_LEAKS = ("_name_or_path", "_model_name_or_path", "name_or_path", "quantization_config")


def cache_home() -> Path:
    """Where ember-hub keeps what it can make again: `EMBER_HUB_CACHE`, else the user's cache folder."""
    own = os.environ.get("EMBER_HUB_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ember-hub"


def convert_gguf(file: Path, progress: Progress | None = None) -> tuple[Path, str]:
    """The checkpoint folder that holds the file's model, and the file's sha256; converts it unless that was done.

    Raises:
        CorruptCheckpoint: not a GGUF file, truncated, or inconsistent.
        UnsupportedModel: an architecture that transformers cannot read from GGUF.
        DiskError: not enough room in the cache.
    """
    progress = progress or Quiet()
    digest = _sha256(file, progress)
    target = cache_home() / "gguf" / digest[:16]
    if (target / "config.json").is_file():
        return target, digest
    _require_room(file, target.parent)
    # A folder beside the target, so that the rename is atomic: nobody sees half a conversion.
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _read_header(file, made)
        with transformers_reports_to(progress), _gguf_bar_too():
            _convert(file, made)
        _clean(made)
        _publish(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target, digest


def _sha256(file: Path, progress: Progress) -> str:
    """Hash of a file that may be many gigabytes.

    Raises:
        CorruptCheckpoint: the file does not start as a GGUF file does.
    """
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise CorruptCheckpoint(f"{file} is not a GGUF file",
                                    hint="download it again; a web page may be in its place")
        stream.seek(0)
        with progress.steps(f"reading {file.name}", -(-file.stat().st_size // _CHUNK)) as done:
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
                done(1)
    return sha.hexdigest()


def _require_room(file: Path, place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{place} cannot be made: {error.strerror}",
                        hint="set EMBER_HUB_CACHE to a folder you may write to") from error
    # 4-bit weights grow about fourfold in bfloat16; unquantized ones not at all.
    needed, free = file.stat().st_size * 4, shutil.disk_usage(place).free
    if free < needed:
        raise DiskError(f"converting {file.name} may take {needed / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free",
                        hint="make room, or set EMBER_HUB_CACHE to a folder on a larger disk")


def _read_header(file: Path, folder: Path) -> None:
    """Check the file's structure, and keep the licence it states where a checkpoint states it: in the card."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
        about = {key: str(fields[field].contents()) for key, field in
                 (("license", "general.license"), ("license_name", "general.license.name"),
                  ("license_link", "general.license.link")) if field in fields}
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise _corrupt(file, error) from error
    if "split.count" in fields and int(fields["split.count"].contents()) > 1:
        raise UnsupportedModel(f"{file.name} is one part of several", hint="join them with `llama-gguf-split --merge`")
    if about:
        lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in about.items())
        (folder / "README.md").write_text(f"---\n{lines}---\n", encoding="utf-8")


@contextmanager
def _gguf_bar_too() -> Iterator[None]:
    # The GGUF reader of transformers is the one place there that bypasses its own hook for progress bars.
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    original, reader.tqdm = reader.tqdm, logging.tqdm
    try:
        yield
    finally:
        reader.tqdm = original


def _convert(file: Path, folder: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place, name = str(file.parent), file.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name, local_files_only=True)
        # Without `dequantize` transformers calls the dense model quantized and will not save it.
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, dtype=torch.bfloat16, local_files_only=True,
            quantization_config=GgufConfig(dequantize=True))
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, struct.error,
            SafetensorError) as error:
        # The header was read before: what is refused here is mostly an architecture.
        if "not supported" in str(error) or isinstance(error, NotImplementedError):
            raise UnsupportedModel(f"{name}: {first_line(error)}", hint="use the original checkpoint") from error
        raise _corrupt(file, error) from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _corrupt(file: Path, error: Exception) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{file.name} cannot be read as GGUF: {first_line(error)}",
                             hint="download it again and compare its size or sha256")


def _clean(folder: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            kept = {key: value for key, value in values.items() if key not in _LEAKS}
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        # safetensors writes 0600, and so does a temporary folder.
        path.chmod(0o644)
    folder.chmod(0o755)


def _publish(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        # Another process converted the same file meanwhile, to the same result.
        if not (target / "config.json").is_file():
            raise
