"""A Hub that is busy, broken, or says no; and clocks that are wrong. No test waits: the watcher's clock only notes for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ember_hub.automation.claim import BRANCH, Record, Refused, take
from ember_hub.automation.hub import Hub
from ember_hub.errors import AutomationError, SourceError
from tests.automation.world import BASE, TARGET, StoppedClock, World

OTHER = "maker/Pico-2B"
ABOUT_BASE = f"^/api/models/{BASE}$"
CLAIM = Record(BASE, "1" * 40, "covid", "recipe", "worker-1", lease=3600.0)


@pytest.mark.parametrize(("faults", "waited"), [
    ([{"status": 429, "headers": {"Retry-After": "120"}}], [120.0]),
    ([{"status": 429}, {"status": 500}, {"status": 503}], [1.0, 4.0, 16.0]),
    (["drop", "drop"], [1.0, 4.0]),
])
def test_a_busy_hub_is_waited_for_as_long_as_it_asks(world: World, faults: list, waited: list[float]) -> None:
    world.release()
    for fault in faults:
        if fault == "drop":
            world.hub.drop_next("GET", ABOUT_BASE)
        else:
            world.hub.fail_next("GET", ABOUT_BASE, **fault)
    watcher = world.watcher(world.clerk())
    assert next(iter(watcher.poll())).decision == "erased"
    assert watcher._hub.clock.slept == waited


@pytest.mark.parametrize(("fault", "says"), [
    ({"status": 401}, "the Hub does not accept the token"),
    ({"status": 403}, "the Hub refuses access"),
    ({"status": 404}, "cannot be fetched"),
    ({"status": 500, "times": 9}, "cannot be fetched"),
    ({"status": 429, "headers": {"Retry-After": "7200"}}, "cannot be fetched"),
])
def test_a_release_the_hub_does_not_give_is_one_failure_and_the_others_go_on(world: World, fault: dict, says: str) -> None:
    world.release()
    world.release(OTHER)
    world.hub.fail_next("GET", ABOUT_BASE, **fault)
    broken, fine = world.poll(world.clerk(), models=(BASE, OTHER))
    assert (broken.repo, broken.decision, fine.decision) == (BASE, "failed", "erased")
    assert says in broken.reason
    assert world.poll(world.clerk(), models=(BASE,))[0].decision in ("erased", "failed")


def test_a_base_that_is_gone_is_one_failure(world: World) -> None:
    world.release(OTHER)
    gone, fine = world.poll(world.clerk(), models=(BASE, OTHER))
    assert (gone.decision, fine.decision) == ("failed", "erased")
    assert f"there is no repository {BASE}" in gone.reason


def test_a_base_that_disappears_between_listing_and_work_is_one_failure(world: World) -> None:
    world.release(OTHER)
    world.release()
    decisions = iter(world.watcher(world.clerk(), orgs=("maker",)).poll())
    first = next(decisions)
    world.hub.store.repositories.pop(("models", OTHER if first.repo == BASE else BASE))
    second = next(decisions)
    assert (first.decision, second.decision) == ("erased", "failed")
    assert "there is no repository" in second.reason


def test_an_organization_that_cannot_be_listed_does_not_stop_the_other(world: World) -> None:
    world.release()
    world.hub.fail_next("GET", "^/api/models$", status=403, times=2)
    broken, fine = world.poll(world.clerk(), orgs=("elsewhere", "maker"))
    assert (broken.repo, broken.decision, fine.decision) == ("elsewhere", "failed", "erased")


@pytest.mark.parametrize(("token", "says"), [("hf_wrong", "does not accept the token"), ("hf_read", "may not write to")])
def test_a_token_that_cannot_write_is_told(world: World, token: str, says: str) -> None:
    world.release()
    if token == "hf_wrong":
        with pytest.raises(SourceError, match=says) as raised:
            world.poll(world.clerk(), token=token)
        assert "hf auth login" in raised.value.hint
        return
    (failed,) = world.poll(clerk := world.clerk(), token=token)
    assert says in failed.reason
    assert clerk.worked == []


def test_without_a_token_nothing_is_begun(world: World) -> None:
    hub = Hub(StoppedClock(), world.api(token=""))
    with pytest.raises(AutomationError, match="there is no token") as raised:
        hub.user()
    assert "HF_TOKEN" in raised.value.hint


def test_a_round_out_of_reach_is_a_failure_and_the_next_one_begins(world: World) -> None:
    world.release()
    world.hub.fail_next("GET", "/api/whoami-v2", status=500, times=4)
    watcher = world.watcher(world.clerk())
    rounds = watcher.keep_polling(21600.0)
    assert next(rounds).decision == "failed"
    assert next(rounds).decision == "erased"
    assert watcher._hub.clock.slept[-1] == 21600.0


@pytest.mark.parametrize("after", [10**6, 0])
def test_a_claim_whose_answer_was_lost_is_ours_if_it_arrived(world: World, after: int) -> None:
    world.release()
    world.hub.drop_next("POST", f"/commit/{BRANCH}", after_bytes=after)
    (made,) = world.poll(clerk := world.clerk())
    if after:
        assert made.decision == "erased"
    else:
        assert (made.decision, clerk.worked) == ("failed", [])
        assert world.poll(clerk)[0].decision == "erased"


def test_a_claim_that_another_overtakes_is_lost(world: World) -> None:
    first, second = Hub(StoppedClock(), world.api()), Hub(StoppedClock(), world.api())
    ours = take(first, TARGET, CLAIM, private=False)
    world.hub.store.ahead = timedelta(hours=2)
    theirs = take(second, TARGET, Record(BASE, "1" * 40, "covid", "recipe", "worker-2", lease=3600.0), private=False)
    assert not isinstance(theirs, Refused)
    ours.fail("too late", for_good=True)
    ours.release()
    held = take(first, TARGET, CLAIM, private=False)
    assert isinstance(held, Refused)
    assert "worker-2" in held.reason


def test_a_claim_that_was_deleted_under_our_hands_is_someone_elses_end(world: World) -> None:
    world.release()
    world.hub.add_repo(TARGET, world.folder / BASE)
    # What the Hub says to a branch that is there; it is gone a moment later.
    world.hub.fail_next("POST", f"/branch/{BRANCH}", status=409)
    lost = take(Hub(StoppedClock(), world.api()), TARGET, CLAIM, private=False)
    assert lost == Refused("claimed", "another watcher has just finished")


def test_a_claim_says_where_the_work_is_done(world: World) -> None:
    take(hub := Hub(StoppedClock(), world.api()), TARGET, CLAIM, private=True).works_at("https://huggingface.co/jobs/tester/1")
    held = take(hub, TARGET, CLAIM, private=True)
    assert held.reason.startswith("claimed by https://huggingface.co/jobs/tester/1 until 2")
    assert world.hub.store.repositories["models", TARGET].is_private


@pytest.mark.parametrize("content", [b"no json", b"[]", b'{"schema": 9}', b'{"schema": 1, "lease": "x"}', b'{"schema": 1}'])
def test_a_claim_that_cannot_be_read_binds_nobody(content: bytes) -> None:
    assert Record.parse(content, datetime.now(UTC)) is None


def test_a_model_from_the_future_is_new_and_an_hour_of_the_hub_is_an_hour(world: World) -> None:
    world.hub.store.ahead = timedelta(days=700)
    world.release()
    world.hub.store.ahead = timedelta()
    assert world.poll(world.clerk(), orgs=("maker",))[0].decision == "erased"
    # This machine's clock says 2001, and what decides is the Hub's.
    assert abs(Hub(StoppedClock(), world.api()).now() - datetime.now(UTC)) < timedelta(minutes=5)
