"""Work on the Hub's machines: what is started there, and what is made of its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ember_hub.automation.hub import Hub
from ember_hub.automation.jobs import Jobs, Terms
from ember_hub.automation.releases import Decision
from ember_hub.errors import AutomationError
from ember_hub.progress import Quiet
from tests.automation.world import BASE, TARGET, StoppedClock, World, publish, recipe, report
from tests.hub.jobs import Ended
from tests.toy_run import write_pack

SETTINGS: dict[str, Any] = {"methods": ["rmu"], "publish": {"form": "patch"}, "gates": {"recovered": 0.35}, "seed": 7,
                            "plugins": {"rmu": {"steps": 150}}, "verify": {"battery": "standard"}}


def poll(world: World, terms: Terms | None = None) -> tuple[Decision, StoppedClock]:
    hub = Hub(clock := StoppedClock(), world.api())
    worker = Jobs(recipe(SETTINGS), terms or Terms(), hub, Quiet())
    return world.poll(worker, settings=SETTINGS)[0], clock


def test_a_job_erases_what_was_released_and_is_followed_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # How a secret reaches us; nothing of the code is replaced.
    monkeypatch.setenv("WANDB_API_KEY", "a secret")
    commit, seen = world.release(), []

    def machine(job: Mapping[str, Any]) -> Ended:
        seen.append(job)
        publish(world.hub, TARGET, report(BASE, commit), world.folder / "made")
        return Ended(lines=("features  8 of 100 kept",))

    world.hub.store.machine = machine
    made, clock = poll(world, Terms(flavor="t4-small", timeout="2h", secrets=("WANDB_API_KEY",)))
    assert (made.decision, made.result.efficacy) == ("erased", 0.5)
    assert made.report.endswith("/ember/report.json")
    assert "/jobs/tester/" in made.run
    assert clock.slept == [30.0, 30.0], "two looks before the last"
    (job,) = seen
    assert job["command"] == [
        "uv", "run", "--no-project", "--with", "ember-hub", "ember-hub", "erase", f"{BASE}@{commit}",
        "--concept=covid", f"--push={TARGET}", "--set", "seed=7", "--set", 'gates={"recovered": 0.35}',
        "--set", "verify.battery=standard", "--set", 'plugins={"rmu": {"steps": 150}}', "--set", "publish.form=patch"]
    assert job["secrets"] == {"HF_TOKEN": "hf_test", "WANDB_API_KEY": "a secret"}
    assert (job["flavor"], job["timeoutSeconds"], job["labels"]["base"]) == ("t4-small", 7200, "maker--Pico-1B")


@pytest.mark.parametrize(("ended", "reason", "is_gate"), [
    (Ended("ERROR", "Job failed with exit code: 1", ("Error: no room", "Hint: x")), "the Job ended as ERROR: no room", False),
    (Ended("ERROR", "Job failed with exit code: 3", ("Error: recovered is 0.5, the limit is 0.35",)), "recovered is 0.5", True),
    (Ended("CANCELED"), "the Job ended as CANCELED: it left no result", False),
    (Ended("COMPLETED"), "the Job ended as COMPLETED: it left no result", False),
])
def test_a_job_without_a_result_is_a_failure_with_what_it_said(world: World, ended: Ended, reason: str, is_gate: bool) -> None:
    world.release()
    world.hub.store.machine = lambda job: ended
    failed, _ = poll(world)
    assert (failed.decision, failed.gate_failed) == ("failed", is_gate)
    assert reason in failed.reason
    assert "/jobs/tester/" in failed.reason
    assert poll(world)[0].decision == "skipped", "and it is not tried again at once"


def test_a_log_that_cannot_be_read_does_not_lose_the_job(world: World) -> None:
    commit = world.release()
    world.hub.fail_next("GET", "/logs$", status=403, times=9)
    world.hub.drop_next("GET", "/api/jobs/tester/[^/]+$")

    def machine(job: Mapping[str, Any]) -> Ended:
        publish(world.hub, TARGET, report(BASE, commit), world.folder / "made")
        return Ended()

    world.hub.store.machine = machine
    assert poll(world)[0].decision == "erased"


def test_an_account_that_may_not_start_jobs_is_told(world: World) -> None:
    world.release()
    failed, _ = poll(world, Terms(flavor="h200"))
    assert "the Hub did not start a Job" in failed.reason
    assert "--here" in failed.reason
    world.hub.store.repositories.pop(("models", TARGET))
    assert "the secret NOT_SET_ANYWHERE is not set here" in poll(world, Terms(secrets=("NOT_SET_ANYWHERE",)))[0].reason
    assert world.hub.store.jobs == {}


def test_a_pack_of_this_machine_does_not_travel(world: World, tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "toy-inventors")
    with pytest.raises(AutomationError, match="lies on this machine") as raised:
        Jobs(recipe({"concept": str(pack)}), Terms(), Hub(StoppedClock(), world.api()), Quiet())
    assert "--here" in raised.value.hint
