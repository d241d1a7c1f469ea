"""The loopback Hub against the unmodified client, and its corners against plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from .server import LoopbackHub

Client = Callable[..., dict[str, Any]]
ROWS = [[float(10 * row + column) for column in range(4)] for row in range(8)]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model as small as one can be: 8 embedding rows of 4 numbers."""
    folder = tmp_path / "model"
    (folder / "original").mkdir(parents=True)
    data = b"".join(struct.pack("<4f", *row) for row in ROWS)
    header = json.dumps({"embedding": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, len(data)]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "original" / "params.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


@pytest.fixture
def client(hub_environment: dict[str, str]) -> Client:
    script = str(Path(__file__).with_name("client_script.py"))
    # The client's own LFS upload calls httpx2 in a deprecated way; every other warning is an error.
    python = [sys.executable, "-W", "error", "-W", "ignore:Use 'content:DeprecationWarning"]

    def run(scenario: str, *arguments: object) -> dict[str, Any]:
        done = subprocess.run([*python, script, scenario, *map(str, arguments)],
                              env=os.environ | hub_environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def fetch(hub: LoopbackHub, method: str, path: str, body: bytes | None = None, **headers: str
          ) -> tuple[int, dict[str, str], bytes]:
    """A request without the client, so that nothing is retried or hidden."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_a_published_folder_comes_back_byte_for_byte(hub, client, model_folder):
    seen = client("publish", model_folder)

    published = {path.relative_to(model_folder).as_posix(): path.read_bytes()
                 for path in model_folder.rglob("*") if path.is_file()}
    snapshot = Path(seen["snapshot"])
    assert {path: (snapshot / path).read_bytes() for path in published} == published
    assert seen["sizes"] == {path: len(content) for path, content in published.items()} | {
        ".gitattributes": len(hub.read("tester/model", ".gitattributes"))}
    assert seen["large"] == ["model.safetensors"]
    assert seen["license"] == "apache-2.0"
    assert seen["mismatches"] == []
    assert seen["repo_id"] == "tester/model"
    assert seen["listed"] == ["tester/model"]


def test_publishing_twice_is_one_commit_and_one_upload(hub, client, model_folder):
    seen = client("publish", model_folder)

    assert seen["repeated"] == seen["first"] == seen["sha"]
    assert seen["titles"] == ["Publish", "initial commit"]
    assert [request.bytes_in for request in hub.seen("PUT", "/-/storage/")] == [
        (model_folder / "model.safetensors").stat().st_size]
    assert seen["stale"] == "HfHubHTTPError"
    assert [request.status for request in hub.seen("POST", "/commit/main")] == [200, 412]


def test_one_row_of_a_tensor_is_read_without_the_rest_of_the_file(hub, client, model_folder):
    sha = hub.add_repo("lab/base", model_folder)

    seen = client("read_row")

    assert seen["row"] == ROWS[2]
    assert Path(seen["file"]).read_bytes() == (model_folder / "model.safetensors").read_bytes()
    header, length, row, file = hub.seen("GET", f"/resolve/{sha}/model.safetensors")
    assert [request.status for request in (header, length, row, file)] == [206, 206, 206, 200]
    assert (length.bytes_out, row.bytes_out) == (8, 16)


def test_large_files_redirect_to_a_host_that_never_sees_the_token(hub, client, model_folder):
    hub.redirects_large_files = True
    hub.add_repo("lab/base", model_folder)

    assert client("read_row")["row"] == ROWS[2]
    assert {request.status for request in hub.seen("GET", "/resolve/.*safetensors")} == {302}
    stored = hub.seen("GET", "/-/storage/")
    assert {request.status for request in stored} == {200, 206}
    assert {request.token for request in stored} == {None}


def test_each_refusal_reaches_the_client_as_its_own_error(hub, client, model_folder):
    hub.add_repo("lab/open", model_folder)
    hub.add_repo("lab/gated", model_folder, gated=True)
    hub.add_repo("tester/private", model_folder, private=True)
    hub.grant("lab/gated", "other")

    assert client("meet_refusals") == {
        "missing repository": "RepositoryNotFoundError",
        "missing revision": "RevisionNotFoundError",
        "missing file": "RemoteEntryNotFoundError",
        "missing folder": "RemoteEntryNotFoundError",
        "gated listing": "no error",
        "gated check": "GatedRepoError",
        "gated file": "GatedRepoError",
        "granted file": "no error",
        "private of others": "RepositoryNotFoundError",
        "own private": "no error",
        "unknown token": "HfHubHTTPError",
        "write with a read token": "HfHubHTTPError",
        "write to others": "HfHubHTTPError",
        "create for others": "HfHubHTTPError",
        "create twice": "HfHubHTTPError",
        "roles": ["write", "read"],
    }
    assert [request.status for request in hub.requests if request.token == "hf_unknown"] == [401]


def test_a_copied_large_file_is_never_uploaded(hub, client, model_folder):
    hub.add_repo("lab/base", model_folder)

    assert client("copy_files")["files"] == [
        ".gitattributes", "config.json", "kept/model.safetensors", "model.safetensors", "notes.txt",
        "original/params.json"]
    assert hub.seen("PUT", "") == []
    assert hub.seen("GET", "safetensors") == []
    assert hub.read("tester/copy", "kept/model.safetensors") == hub.read("lab/base", "model.safetensors")


def test_a_branch_moves_alone_and_a_deleted_repository_is_gone(hub, client, model_folder):
    seen = client("branch_and_delete", model_folder)

    published = [".gitattributes", "README.md", "config.json", "model.safetensors", "original/params.json"]
    assert seen["on branch"] == seen["at the commit"] == published
    assert seen["on main"] == [".gitattributes", "old.txt"]
    assert seen["after"] == seen["deleted again"] == "RepositoryNotFoundError"


def test_a_card_whose_metadata_is_no_mapping_is_refused_before_anything_is_sent(hub, client):
    seen = client("push_cards")

    assert seen == {"broken": "ValueError", "listed": "ValueError", "text": "# Good",
                    "tags": ["erased", "license:apache-2.0"]}
    assert [request.status for request in hub.seen("POST", "/api/validate-yaml")][-2:] == [400, 400]
    assert len(hub.seen("POST", "/commit/main")) == 1


def test_a_transfer_that_is_cut_off_is_repeated_and_leaves_nothing_behind(hub, client, model_folder):
    hub.drop_next("PUT", "/-/storage/", after_bytes=100)
    hub.drop_next("GET", "/resolve/", after_bytes=20)
    hub.fail_next("POST", "/commit/main", status=403, headers={"X-Error-Code": "GatedRepo"})

    seen = client("publish_through_faults", model_folder)

    content = (model_folder / "model.safetensors").read_bytes()
    cut, whole = hub.seen("PUT", "/-/storage/")
    assert (cut.status, cut.bytes_in) == (None, 100)
    assert (whole.status, whole.bytes_in) == (200, len(content))
    assert seen["error"] == "GatedRepoError"
    assert [request.status for request in hub.seen("POST", "/commit/main")] == [403, 200]
    assert hub.read("tester/model", "model.safetensors", seen["commit"]) == content
    assert not list(hub.store.path(sha256(content).hexdigest()).parent.glob("incoming-*"))
    assert Path(seen["file"]).read_bytes() == content
    assert [part.bytes_out for part in hub.seen("GET", "/resolve/")] == [20, len(content)]


@pytest.mark.parametrize(("asked", "status", "span", "content"), [
    ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
    ("bytes=7-", 206, "bytes 7-9/10", b"789"),
    ("bytes=-3", 206, "bytes 7-9/10", b"789"),
    ("bytes=8-100000", 206, "bytes 8-9/10", b"89"),
    ("bytes=10-", 416, "bytes */10", None),
    ("rows=1-2", 200, None, b"0123456789"),
])
def test_a_range_is_answered_exactly_or_refused(hub, tmp_path, asked, status, span, content):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "digits.bin").write_bytes(b"0123456789")
    sha = hub.add_repo("lab/digits", tmp_path / "digits")

    answer, headers, body = fetch(hub, "GET", f"/lab/digits/resolve/{sha[:8]}/digits.bin", Range=asked)

    assert (answer, headers.get("Content-Range")) == (status, span)
    assert headers["X-Repo-Commit"] == sha if content else True
    assert content is None or body == content
    assert hub.requests[-1].bytes_out == len(body)


def test_a_download_that_is_cut_off_ends_after_the_bytes_that_were_asked_for(hub, model_folder):
    hub.add_repo("lab/base", model_folder)
    hub.drop_next("GET", "/resolve/", after_bytes=20)

    with pytest.raises(http.client.IncompleteRead) as caught:
        fetch(hub, "GET", "/lab/base/resolve/main/model.safetensors")
    assert len(caught.value.partial) == 20
    assert fetch(hub, "GET", "/lab/base/resolve/main/model.safetensors")[0] == 200


def test_a_call_can_take_effect_and_lose_its_answer(hub):
    hub.drop_next("POST", "/api/repos/create", after_bytes=10**6)
    body = b'{"name": "model", "organization": null}'

    with pytest.raises(http.client.RemoteDisconnected):
        fetch(hub, "POST", "/api/repos/create", body, Authorization="Bearer hf_test")
    status, _, answer = fetch(hub, "POST", "/api/repos/create", body, Authorization="Bearer hf_test")
    assert (status, json.loads(answer)["url"]) == (409, f"{hub.url}/tester/model")


def test_models_are_listed_newest_first_and_private_ones_to_their_owner_only(hub, model_folder):
    for repo_id in ("lab/first", "tester/second", "lab/third"):
        hub.add_repo(repo_id, model_folder, private=repo_id == "tester/second")

    def listed(query: str, **headers: str) -> list[str]:
        return [model["id"] for model in json.loads(fetch(hub, "GET", f"/api/models?{query}", **headers)[2])]

    assert listed("sort=createdAt") == ["lab/third", "lab/first"]
    assert listed("sort=createdAt&limit=2", Authorization="Bearer hf_test") == ["lab/third", "tester/second"]
    assert listed("author=lab&search=FIR&filter=license:apache-2.0") == ["lab/first"]
    assert fetch(hub, "GET", "/api/models?sort=size")[0] == 400


def test_a_new_release_of_a_model_is_a_commit_on_top_of_the_last(hub, model_folder):
    first = hub.add_repo("lab/base", model_folder)
    (model_folder / "config.json").write_text("{}")
    second = hub.add_repo("lab/base", model_folder)

    commits = json.loads(fetch(hub, "GET", "/api/models/lab/base/commits/main")[2])
    assert [commit["id"] for commit in commits][:2] == [second, first]
    assert hub.read("lab/base", "config.json", second) == b"{}" != hub.read("lab/base", "config.json", first)


def test_the_storage_refuses_a_token_and_a_wrong_signature(hub, model_folder):
    hub.add_repo("lab/base", model_folder)
    stored = sha256(hub.read("lab/base", "model.safetensors")).hexdigest()
    signed = f"/-/storage/{stored}?signature={hub.store.signature}"

    assert fetch(hub, "GET", signed)[0] == 200
    assert fetch(hub, "GET", signed, Authorization="Bearer hf_test")[0] == 400
    assert fetch(hub, "GET", f"/-/storage/{stored}?signature=guess")[0] == 403


def test_a_call_the_hub_does_not_know_says_so(hub):
    status, headers, _ = fetch(hub, "GET", "/api/spaces/lab/demo/runtime")

    assert status == 501
    assert headers["X-Error-Message"] == "the loopback Hub has no GET /api/spaces/lab/demo/runtime"


def test_a_file_of_holes_is_served_where_it_lies(hub, tmp_path):
    (tmp_path / "huge").mkdir()
    with (tmp_path / "huge" / "model.safetensors").open("wb") as file:
        file.truncate(800 * 10**9)
        file.seek(700 * 10**9)
        file.write(b"row")
    sha = hub.add_repo("lab/huge", tmp_path / "huge", in_place=True)

    part = "bytes=699999999999-700000000003"
    status, headers, body = fetch(hub, "GET", f"/lab/huge/resolve/{sha}/model.safetensors", Range=part)
    assert (status, body) == (206, b"\0row\0")
    assert headers["Content-Range"] == f"bytes {part.removeprefix('bytes=')}/800000000000"


def test_answers_can_be_changed_and_addresses_expire(hub, model_folder):
    hub.redirects_large_files = True
    sha = hub.add_repo("lab/base", model_folder)
    path = f"/lab/base/resolve/{sha}/model.safetensors"
    signed = fetch(hub, "GET", path)[1]["Location"].partition("/-/")[2]

    assert fetch(hub, "GET", f"/-/{signed}", Range="bytes=0-7")[0] == 206
    hub.expire_addresses()
    assert fetch(hub, "GET", f"/-/{signed}", Range="bytes=0-7")[0] == 403
    hub.change_next("HEAD", path, lambda reply: replace(reply, headers={"X-Repo-Commit": "0" * 40}))
    assert fetch(hub, "HEAD", path)[1]["X-Repo-Commit"] == "0" * 40
    assert fetch(hub, "HEAD", path)[1]["X-Repo-Commit"] == sha
