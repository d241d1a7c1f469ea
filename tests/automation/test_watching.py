"""What a round of watching makes of releases: each is erased once, by one watcher, and what cannot be is said."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from ember_hub.automation.claim import BRANCH, FILE
from ember_hub.errors import AutomationError, ConfigError, CorruptCheckpoint, DiskError, GateFailed, NoConceptTokens
from tests.automation.world import BASE, TARGET, World, publish, report, weights


def branches(world: World, target: str = TARGET) -> set[str]:
    return set(world.hub.store.repositories["models", target].branches)


def test_each_commit_of_the_weights_is_erased_once_whoever_watches(world: World) -> None:
    first, clerk = world.release(), world.clerk()
    (made,) = world.poll(clerk)
    assert (made.decision, made.commit, made.target) == ("erased", first, TARGET)
    assert (made.result.efficacy, made.result.passed, made.before) == (0.5, True, None)
    assert branches(world) == {"main"}, "the claim is gone, the result tells"

    (again,) = world.poll(clerk)
    assert (again.decision, again.reason, again.result.commit) == ("done", "it was erased already", first)

    card_only = world.release(README__md="---\nlicense: apache-2.0\n---\n# A better card\n")
    (same,) = world.poll(clerk)
    assert (same.decision, same.commit) == ("done", card_only)
    assert first[:12] in same.reason

    second = world.release(model__safetensors=weights(8))
    (new,) = world.poll(clerk)
    assert (new.decision, new.before.commit, new.result.commit) == ("erased", first, second)
    assert clerk.worked == [(BASE, first), (BASE, second)]


def test_both_forms_are_done_only_when_both_are_there(world: World) -> None:
    commit, clerk = world.release(), world.clerk()
    stem = TARGET.removesuffix("-patch")
    publish(world.hub, stem, report(BASE, commit), world.folder / "earlier")
    (made,) = world.poll(clerk, settings={"publish": {"form": "both"}})
    assert (made.decision, made.target) == ("erased", stem)
    (again,) = world.poll(clerk, settings={"publish": {"form": "both"}})
    assert again.decision == "done"


def test_a_dry_run_claims_and_writes_nothing(world: World) -> None:
    world.release()
    (found,) = world.poll(None)
    assert (found.decision, found.target) == ("new", TARGET)
    assert {request.method for request in world.hub.requests} == {"GET"}


def test_of_two_watchers_at_the_same_moment_one_works(world: World) -> None:
    world.release()
    start, clerks = threading.Barrier(2), (world.clerk(), world.clerk())

    def round_of(clerk: object) -> str:
        watcher = world.watcher(clerk)
        start.wait()
        return next(iter(watcher.poll())).decision

    with ThreadPoolExecutor(2) as pool:
        verdicts = sorted(pool.map(round_of, clerks))
    assert verdicts in (["claimed", "erased"], ["done", "erased"])
    assert len(clerks[0].worked + clerks[1].worked) == 1


def test_what_another_watcher_works_on_is_left_to_it_and_is_done_when_it_is_done(world: World) -> None:
    world.release()
    seen, idle = [], world.clerk()
    world.poll(world.clerk(meanwhile=lambda: seen.extend(world.poll(idle))))
    assert seen[0].decision == "claimed"
    assert "until" in seen[0].reason
    assert world.poll(idle)[0].decision == "done"
    assert idle.worked == []


def test_a_dead_workers_claim_expires_by_the_clock_of_the_hub(world: World) -> None:
    world.release()

    class Killed(BaseException):
        pass

    def die() -> None:
        # The machine is gone: nothing is given back.
        world.hub.fail_next("DELETE", f"/branch/{BRANCH}", status=403)
        raise Killed

    with pytest.raises(Killed):
        world.poll(world.clerk(meanwhile=die))
    world.hub.store.ahead = timedelta(hours=23)
    assert world.poll(clerk := world.clerk())[0].decision == "claimed"
    world.hub.store.ahead = timedelta(hours=25)
    assert world.poll(clerk)[0].decision == "erased"


def test_an_interrupted_watcher_gives_its_claim_back(world: World) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    world.release()
    with pytest.raises(KeyboardInterrupt):
        world.poll(world.clerk(meanwhile=interrupt))
    assert world.poll(world.clerk())[0].decision == "erased"


def test_a_claim_dated_in_the_future_does_not_hold_for_ever(world: World) -> None:
    world.release()
    world.hub.store.ahead = timedelta(days=400)
    world.poll(world.clerk(meanwhile=lambda: world.hub.fail_next("DELETE", f"/branch/{BRANCH}", status=403),
                           trouble=DiskError("full", hint="make room")))
    world.hub.store.ahead = timedelta()
    assert world.poll(world.clerk())[0].decision == "erased"


def test_a_release_that_fails_rests_longer_each_time_and_the_others_go_on(world: World) -> None:
    world.release()
    other = "maker/Pico-2B"
    world.release(other)
    broken = world.clerk(trouble=AutomationError("the machine broke", hint="look at it"))
    first, _ = world.poll(broken, models=(BASE, other))
    assert (first.decision, first.reason) == ("failed", "the machine broke (look at it)")
    assert len(broken.worked) == 2

    (rests,) = world.poll(clerk := world.clerk())
    assert rests.decision == "skipped"
    assert rests.reason.startswith("1 failure; next try after ")
    world.hub.store.ahead = timedelta(minutes=61)
    assert world.poll(broken)[0].decision == "failed"
    world.hub.store.ahead = timedelta(hours=4)
    assert world.poll(clerk)[0].reason.startswith("2 failures")
    world.hub.store.ahead = timedelta(hours=6)
    assert world.poll(clerk)[0].decision == "erased"


def test_a_failed_gate_is_not_tried_again_unless_the_commit_or_the_recipe_changes(world: World) -> None:
    world.release()
    gate = {"name": "recovered", "value": 0.5, "limit": 0.35, "passed": False}
    (kept,) = world.poll(world.clerk(gates=[gate]))
    assert (kept.decision, kept.gate_failed, kept.reason) == ("failed", True, "recovered is 0.5, the limit is 0.35")
    assert kept.report == "runs/report.json"

    world.hub.store.ahead = timedelta(days=30)
    (refused,) = world.poll(clerk := world.clerk())
    assert refused.decision == "skipped"
    assert "recovered is 0.5" in refused.reason
    assert BRANCH in refused.reason
    assert world.poll(clerk, settings={"seed": 7})[0].decision == "erased"


@pytest.mark.parametrize(("error", "verdict", "then"), [
    (NoConceptTokens("the vocabulary has none", hint="take another base"), "skipped", "skipped"),
    (GateFailed("recovered is 0.5", hint="see the run"), "failed", "skipped"),
    (DiskError("no room on this machine", hint="make room"), "failed", "erased"),
])
def test_what_is_the_releases_own_fault_is_kept_and_what_is_not_is_not(
        world: World, error: Exception, verdict: str, then: str) -> None:
    world.release()
    assert world.poll(world.clerk(trouble=error))[0].decision == verdict
    assert world.poll(world.clerk())[0].decision == then


def test_a_failure_on_this_machine_is_not_told_to_the_world(world: World) -> None:
    world.release()
    world.poll(world.clerk(trouble=CorruptCheckpoint("/home/me/model.safetensors is truncated", hint="download it again")))
    kept = world.hub.read(TARGET, FILE, BRANCH).decode()
    assert "CorruptCheckpoint" in kept
    assert "/home/me" not in kept


def test_a_wrong_recipe_stops_the_watch_and_leaves_no_claim(world: World) -> None:
    world.release()
    with pytest.raises(ConfigError) as raised:
        world.poll(world.clerk(trouble=ConfigError("no method 'rmuu'", hint="did you mean rmu?")))
    assert raised.value.hint == "did you mean rmu?"
    assert branches(world) == {"main"}


def test_a_target_that_holds_something_else_is_never_claimed(world: World) -> None:
    commit = world.release()
    publish(world.hub, TARGET, report("maker/Other", commit), world.folder / "other")
    (foreign,) = world.poll(world.clerk())
    assert foreign.decision == "failed"
    assert "holds the result for 'covid-19-pandemic' on maker/Other" in foreign.reason
    assert "--push" in foreign.reason
    assert branches(world) == {"main"}


def test_the_models_of_an_organization_are_sifted(world: World) -> None:
    world.release("maker/Old-1B")
    world.hub.store.ahead = timedelta(days=40)
    for name, files in {
        "Small-1B": {}, "Large-9B": {"model__safetensors": weights(100)}, "Code-1B": {"README__md": "---\nlicense: other\n---\n"},
        "Result": {}, "Small-GGUF": {},
    }.items():
        world.release(f"maker/{name}", **files)
    publish(world.hub, "maker/Result", report(BASE, "1" * 40), world.folder / "maker/Result")
    (world.folder / "maker/Small-GGUF/model.safetensors").rename(world.folder / "maker/Small-GGUF/q4.gguf")
    world.hub.add_repo("maker/Small-GGUF", world.folder / "maker/Small-GGUF")

    decisions = world.poll(clerk := world.clerk(), orgs=("maker",), name="1B|9B|Result|GGUF", max_parameters="0.1K",
                           licences=("apache-2.0",))
    said = {decision.repo.split("/")[1]: (decision.decision, decision.reason) for decision in decisions}
    assert said == {
        "Small-1B": ("erased", ""),
        "Large-9B": ("skipped", "it has 2e-07B parameters"),
        "Code-1B": ("skipped", "its licence is other"),
        "Result": ("skipped", "it is itself a result of ember-hub"),
        "Small-GGUF": ("skipped", "it holds GGUF files only"),
        "Old-1B": ("skipped", "it was made more than 30d ago, and never erased"),
    }
    assert [repo for repo, _ in clerk.worked] == ["maker/Small-1B"]


def test_an_old_model_of_an_organization_that_was_erased_before_is_followed(world: World) -> None:
    first = world.release()
    publish(world.hub, TARGET, report(BASE, first), world.folder / "earlier")
    world.hub.store.ahead = timedelta(days=300)
    world.release(model__safetensors=weights(8))
    world.release("maker/Other-1B")
    world.hub.store.ahead = timedelta(days=400)
    watcher = world.watcher(world.clerk(), orgs=("maker",))
    assert [watcher.look_at(repo).decision for repo in ("maker/Other-1B", "maker/None")] == ["skipped", "failed"]
    assert world.poll(world.clerk(), orgs=("maker",), name="Pico")[0].decision == "erased"


@pytest.mark.parametrize(("files", "reason"), [
    ({"config__json": '{"architectures": ["BertForMaskedLM"]}'}, "BertForMaskedLM is no language model that writes text"),
    ({"config__json": '{"quantization_config": {"bits": 4}}'}, "its weights are quantized"),
    ({"README__md": "---\ntags: [gptq]\n---\n"}, "its weights are quantized"),
    ({"adapter_config__json": "{}"}, "it is an adapter, not a full model"),
])
def test_what_cannot_be_edited_is_skipped_before_it_is_claimed(world: World, files: dict[str, str], reason: str) -> None:
    world.release(**files)
    (skipped,) = world.poll(world.clerk())
    assert (skipped.decision, skipped.reason) == ("skipped", reason)
    assert {request.method for request in world.hub.requests} == {"GET"}


def test_an_upload_that_is_not_complete_waits(world: World) -> None:
    place = world.folder / BASE
    world.release(**{"model-00001-of-00002__safetensors": weights(2)})
    (place / "model.safetensors").unlink()
    world.hub.add_repo(BASE, place)
    assert world.poll(world.clerk())[0].reason == "its upload is not complete: 1 of 2 shards"


def test_a_gated_base_without_access_is_skipped(world: World) -> None:
    world.release()
    world.hub.store.repositories["models", BASE].is_gated = True
    assert world.poll(world.clerk())[0].reason == "it is gated, and this token has no access"
    world.hub.grant(BASE, "tester")
    assert world.poll(world.clerk())[0].decision == "erased"

