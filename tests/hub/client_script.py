"""What a user of the Hub does, with the real client: `python client_script.py SCENARIO [FOLDER]` prints JSON.

A process of its own because huggingface_hub reads its environment once, when it is imported.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    HfApi,
    ModelCard,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.utils import build_hf_headers


def additions(folder: Path) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path))
            for path in sorted(folder.rglob("*")) if path.is_file()]


def error_of(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:  # The class is the result: the scenarios compare it.
        return type(error).__name__
    return "no error"


def publish(folder: str) -> dict[str, object]:
    api, source = HfApi(), Path(folder)
    api.create_repo("tester/model")
    again = api.create_repo("tester/model", exist_ok=True)
    first = api.create_commit("tester/model", additions(source), commit_message="Publish")
    repeated = api.create_commit("tester/model", additions(source), commit_message="Publish again")
    info = api.model_info("tester/model", files_metadata=True)
    snapshot = Path(snapshot_download("tester/model"))
    checked = api.verify_repo_checksums("tester/model", local_dir=snapshot)
    stale = [CommitOperationAdd("late.txt", b"late")]
    return {
        "repo_id": again.repo_id, "first": first.oid, "repeated": repeated.oid, "sha": info.sha,
        "license": info.card_data.license if info.card_data else None,
        "large": [file.rfilename for file in info.siblings or () if file.lfs],
        "sizes": {file.rfilename: file.size for file in info.siblings or ()},
        "snapshot": str(snapshot), "mismatches": checked.mismatches,
        "stale": error_of(lambda: api.create_commit("tester/model", stale, commit_message="x", parent_commit="0" * 40)),
        "titles": [commit.title for commit in api.list_repo_commits("tester/model")],
        "branches": [branch.name for branch in api.list_repo_refs("tester/model").branches],
        "listed": [model.id for model in api.list_models(author="tester", sort="created_at", limit=5)],
    }


def read_row() -> dict[str, object]:
    """Row 2 of the tensor `embedding` without the rest of the file, then the file."""
    api = HfApi()
    sha = api.model_info("lab/base").sha
    tensor = api.parse_safetensors_file_metadata("lab/base", "model.safetensors", revision=sha).tensors["embedding"]
    url = hf_hub_url("lab/base", "model.safetensors", revision=sha)

    def read(start: int, length: int) -> bytes:
        span = {"Range": f"bytes={start}-{start + length - 1}"}
        response = get_session().get(url, headers=build_hf_headers() | span)
        assert response.status_code == 206, response.status_code
        return response.content

    width = 4 * tensor.shape[1]
    start = 8 + struct.unpack("<Q", read(0, 8))[0] + tensor.data_offsets[0]
    row = struct.unpack(f"<{tensor.shape[1]}f", read(start + 2 * width, width))
    return {"row": row, "file": hf_hub_download("lab/base", "model.safetensors", revision=sha)}


def meet_refusals() -> dict[str, object]:
    api, reader, unknown = HfApi(), HfApi(token="hf_read"), HfApi(token="hf_unknown")
    other = HfApi(token="hf_other")
    file = {"path_or_fileobj": b"x", "path_in_repo": "x.txt"}
    return {
        "missing repository": error_of(lambda: api.model_info("lab/none")),
        "missing revision": error_of(lambda: api.model_info("lab/open", revision="v9")),
        "missing file": error_of(lambda: hf_hub_download("lab/open", "none.txt")),
        "missing folder": error_of(lambda: list(api.list_repo_tree("lab/open", "none"))),
        "gated listing": error_of(lambda: api.model_info("lab/gated")),
        "gated check": error_of(lambda: api.auth_check("lab/gated")),
        "gated file": error_of(lambda: hf_hub_download("lab/gated", "config.json")),
        "granted file": error_of(lambda: hf_hub_download("lab/gated", "config.json", token="hf_other")),
        "private of others": error_of(lambda: other.model_info("tester/private")),
        "own private": error_of(lambda: reader.model_info("tester/private")),
        "unknown token": error_of(lambda: unknown.whoami()),
        "write with a read token": error_of(lambda: reader.upload_file(repo_id="tester/private", **file)),
        "write to others": error_of(lambda: api.upload_file(repo_id="lab/open", **file)),
        "create for others": error_of(lambda: api.create_repo("lab/mine")),
        "create twice": error_of(lambda: api.create_repo("tester/private")),
        "roles": [client.whoami()["auth"]["accessToken"]["role"] for client in (api, reader)],
    }


def copy_files() -> dict[str, object]:
    """A second repository that shares the large file, and a second name for it inside that repository."""
    api = HfApi()
    api.create_repo("tester/copy")
    paths = [path for path in api.list_repo_files("lab/base") if path not in (".gitattributes", "README.md")]
    across = [CommitOperationCopy(path, path, src_repo_id="lab/base", src_repo_type="model") for path in paths]
    edited = [CommitOperationAdd("notes.txt", b"edited")]
    api.create_commit("tester/copy", across + edited, commit_message="Copy across")
    within = [CommitOperationCopy("model.safetensors", "kept/model.safetensors")]
    api.create_commit("tester/copy", within, commit_message="Copy within")
    return {"files": sorted(api.list_repo_files("tester/copy"))}


def branch_and_delete(folder: str) -> dict[str, object]:
    api = HfApi()
    api.create_repo("tester/model")
    api.create_commit("tester/model", [CommitOperationAdd("old.txt", b"old")], commit_message="Old")
    api.create_branch("tester/model", branch="next/1")
    on_branch = api.upload_folder(
        repo_id="tester/model", folder_path=folder, revision="next/1", delete_patterns="*.txt")
    return {
        "on branch": sorted(api.list_repo_files("tester/model", revision="next/1")),
        "on main": sorted(api.list_repo_files("tester/model")),
        "at the commit": sorted(api.list_repo_files("tester/model", revision=on_branch.oid)),
        "deleted": api.delete_repo("tester/model"),
        "after": error_of(lambda: api.model_info("tester/model")),
        "deleted again": error_of(lambda: api.delete_repo("tester/model")),
    }


def push_cards() -> dict[str, object]:
    api = HfApi()
    api.create_repo("tester/cards")
    good = ModelCard("---\nlicense: apache-2.0\ntags:\n- erased\n---\n# Good\n")
    good.push_to_hub("tester/cards")
    broken = [CommitOperationAdd("README.md", b"---\nlicense: [apache-2.0\n---\n# Broken\n")]
    listed = [CommitOperationAdd("README.md", b"---\n- license\n- tags\n---\n# A list\n")]
    return {
        "broken": error_of(lambda: api.create_commit("tester/cards", broken, commit_message="x")),
        "listed": error_of(lambda: api.create_commit("tester/cards", listed, commit_message="x")),
        "tags": api.model_info("tester/cards").tags,
        "text": ModelCard.load("tester/cards").text.strip(),
    }


def publish_through_faults(folder: str) -> dict[str, object]:
    api = HfApi()
    api.create_repo("tester/model")
    error = error_of(lambda: api.create_commit("tester/model", additions(Path(folder)), commit_message="Refused"))
    commit = api.create_commit("tester/model", additions(Path(folder)), commit_message="Publish")
    return {"error": error, "commit": commit.oid, "file": hf_hub_download("tester/model", "model.safetensors")}


SCENARIOS = {scenario.__name__: scenario for scenario in (
    publish, read_row, meet_refusals, copy_files, branch_and_delete, push_cards, publish_through_faults)}

if __name__ == "__main__":
    json.dump(SCENARIOS[sys.argv[1]](*sys.argv[2:]), sys.stdout)
