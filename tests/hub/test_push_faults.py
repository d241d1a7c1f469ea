"""A push through everything that can go wrong on the way, injected by the loopback Hub; never a half state."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from .pushing import REPO, content_of, published, stored, write_result

EXPIRED = {"X-Error-Message": "Invalid credentials in Authorization header"}
LATER = {"Retry-After": "7"}
WINDOW = {"RateLimit": '"api";r=0;t=55'}
FOREVER = 99


def commits(hub, repo: str = REPO) -> int:
    """Those that hold files of ours."""
    repository = hub.store.repositories["models", repo]
    return sum("README.md" in commit.files for commit in repository.commits.values())


@pytest.mark.parametrize(("method", "path", "status", "headers", "message"), [
    ("POST", "/commit/main", 401, EXPIRED, "the Hub does not accept the token"),
    ("GET", f"/api/models/{REPO}/revision/", 401, EXPIRED, "the Hub does not accept the token"),
    ("POST", "/info/lfs/objects/batch", 401, EXPIRED, "the Hub does not accept the token"),
    ("POST", "/api/repos/create", 403, {}, f"the token may not write to {REPO}"),
    ("PUT", "/-/storage/", 403, {}, f"the token may not write to {REPO}"),
    ("POST", "/commit/main", 404, {"X-Error-Code": "RepoNotFound"}, f"{REPO} is not there, or the token may not see it"),
    ("POST", "/commit/main", 402, {}, f"the account has no room for {REPO}"),
    ("POST", "/commit/main", 409, {}, f"{REPO} changed while this run was working"),
    ("POST", "/commit/main", 412, {}, f"{REPO} changed while this run was working"),
    ("POST", "/commit/main", 413, {}, f"the Hub does not take that much at once for {REPO}"),
    ("POST", "/api/validate-yaml", 400, {}, "the Hub answered 400: injected fault"),
])
def test_what_the_hub_refuses_is_said_in_our_words_and_the_next_push_succeeds(
        hub, publish, result, method, path, status, headers, message):
    hub.fail_next(method, path, status=status, headers=headers)
    seen = publish(result)
    assert (seen["error"], seen["message"]) == ("PushRejected", message)
    assert seen["hint"]
    assert seen["waits"] == []

    publish(result)
    assert published(hub) == content_of(result)
    assert commits(hub) == 1


@pytest.mark.parametrize(("status", "message"), [(429, "the Hub asks to slow down"), (500, "the Hub answered 500: injected fault"),
                                                 (502, "the Hub answered 502: injected fault"),
                                                 (503, "the Hub answered 503: injected fault")])
def test_a_hub_that_stays_busy_is_left_alone_after_a_while(hub, publish, result, status, message):
    hub.fail_next("POST", "/commit/main", status=status, times=FOREVER)
    seen = publish(result)

    assert (seen["error"], seen["message"]) == ("PushRejected", message)
    assert "push again in a few minutes, what was uploaded is kept" in seen["hint"]
    assert seen["waits"] == [1.0, 2.0, 4.0, 8.0]
    assert published(hub) == {}


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/api/whoami-v2"), ("GET", f"/api/models/{REPO}$"), ("POST", "/api/repos/create"), ("POST", "/commit/main"),
    ("GET", f"/api/models/{REPO}/revision/")])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub, publish, result, method, path):
    hub.fail_next(method, path, status=503)
    hub.fail_next(method, path, status=429, headers=LATER)
    hub.fail_next(method, path, status=429, headers=WINDOW)
    hub.drop_next(method, path)

    seen = publish(result)
    assert seen["waits"] == [1.0, 7.0, 55.0, 8.0]
    assert seen["said"][:4] == ["the Hub answers 503: again in 1 s", "the Hub answers 429: again in 7 s",
                                "the Hub answers 429: again in 55 s", "the Hub cannot be reached: again in 8 s"]
    assert published(hub) == content_of(result)
    assert commits(hub) == 1


@pytest.mark.parametrize(("path", "headers"), [("/commit/main", {"Retry-After": "3600"}),
                                               ("/info/lfs/objects/batch", {"Retry-After": "3600"}),
                                               ("/preupload/main", {"RateLimit": '"api";r=0;t=3600'})])
def test_a_hub_that_asks_for_too_long_a_wait_is_told_to_the_user_instead(hub, publish, result, path, headers):
    hub.fail_next("POST", path, status=429, headers=headers)
    seen = publish(result)

    assert (seen["error"], seen["message"]) == ("PushRejected", "the Hub asks to wait 3,600 s before the next request")
    assert "push again after that time" in seen["hint"]
    assert seen["waits"] == []
    publish(result)
    assert published(hub) == content_of(result)


def test_a_commit_whose_answer_was_lost_is_recognized_as_done(hub, publish, result):
    hub.drop_next("POST", "/commit/main", after_bytes=10**6)
    seen = publish(result)

    assert seen["waits"] == []
    assert seen["commit"] == hub.store.repositories["models", REPO].head.oid
    assert published(hub) == content_of(result)
    assert len(hub.seen("POST", "/commit/main")) == 1


def test_an_upload_that_is_cut_off_is_repeated_and_nothing_else_is(hub, publish, result):
    hub.drop_next("PUT", "/-/storage/", after_bytes=100)
    publish(result)

    assert [(put.status, put.bytes_in) for put in hub.seen("PUT", "/-/storage/")] == [(None, 100), (200, 600)]
    assert published(hub) == content_of(result)


def test_a_connection_that_never_comes_back_leaves_the_repository_as_it_was(hub, publish, result):
    hub.drop_next("POST", "/commit/main", after_bytes=10, times=FOREVER)
    seen = publish(result)

    assert seen["error"] == "PushRejected"
    assert seen["message"].startswith(f"{REPO} cannot be reached: ")
    assert published(hub) == {}


def test_of_two_pushes_of_one_result_at_once_one_commits_and_the_other_finds_it_there(hub, publish, result):
    hub.meet_next("POST", "/api/repos/create")
    hub.meet_next("POST", "/commit/main")
    both = [publish.finish(process) for process in [publish.start(result), publish.start(result)]]

    assert both[0]["commit"] == both[1]["commit"] == hub.store.repositories["models", REPO].head.oid
    assert Counter(post.status for post in hub.seen("POST", "/commit/main")) == {200: 1, 412: 1}
    assert published(hub) == content_of(result)


def test_of_two_pushes_of_different_results_at_once_one_wins_whole(hub, publish, result, tmp_path):
    other = write_result(tmp_path / "other", {"model.safetensors": b"other" * 99, "notes.txt": b"other"})
    hub.meet_next("POST", "/commit/main")
    both = [publish.finish(process) for process in [publish.start(result), publish.start(other)]]

    assert sorted(seen.get("message", "") for seen in both) == ["", f"{REPO} changed while this run was working"]
    assert published(hub) in (content_of(result), content_of(other))
    assert commits(hub) == 1


def test_a_hub_whose_clock_is_years_off_changes_nothing(hub, publish, result):
    hub.store.ahead = timedelta(days=3000)
    publish(result)
    assert hub.store.repositories["models", REPO].head.date > "2034"
    hub.store.ahead = timedelta(days=-3000)

    assert publish(result)["sent"] == 0
    assert published(hub) == content_of(result)
    assert stored(hub) == 600
