"""Where settings come from, which source wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ember_hub.errors import ConfigError
from ember_hub.settings import Settings, resolve

FLAGS = {"model": "org/name", "concept": "covid"}


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "ember.toml"
    config.write_text('seed = 1\n[ember]\nseeds = 2\nclip = 3.0\n[rmu]\nsteps = 9\n')
    found = resolve(FLAGS | {"seed": 5}, config=config, environment={"EMBER_HUB_EMBER__SEEDS": "4", "EMBER_HUB_SEED": "7"},
                    assignments=["search.trials=2"])
    assert (found.seed, found.ember.seeds, found.ember.clip, found.search.trials) == (5, 4, 3.0, 2)
    assert found.plugins == {"rmu": {"steps": 9}}


def test_settings_of_plug_ins_go_to_their_plug_in() -> None:
    assert resolve(FLAGS, environment={"EMBER_HUB_RELEARN_LORA__TEXTS": "9"}).plugins == {"relearn-lora": {"texts": 9}}
    assert resolve(FLAGS, assignments=["rmu.steps=150"], environment={}).plugins == {"rmu": {"steps": 150}}


@pytest.mark.parametrize(("text", "hint"), [("ember.sede=3", "ember.seeds"), ("embr.seeds=3", "ember"),
                                            ("search.trails=3", "search.trials"),
                                            ("verify.battery=hard", "--help"), ("verify.only=questions", "verify.only=["),
                                            ("ember.seeds=0", "--help"),
                                            ("nonsense", "section.key=value")])
def test_a_typo_is_refused_with_the_nearest_name(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(FLAGS, assignments=[text], environment={})
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        resolve(FLAGS, config=tmp_path / "missing.toml", environment={})
    (tmp_path / "bad.toml").write_text("seed = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        resolve(FLAGS, config=tmp_path / "bad.toml", environment={})


def test_what_does_not_change_the_result_does_not_change_the_run_folder() -> None:
    one = resolve(FLAGS, environment={})
    elsewhere = resolve(FLAGS | {"output": "/elsewhere", "gates": {"recovered": 0.3}, "publish": {"push": True},
                                 "verify": {"battery": "full"}}, assignments=["sampling.samples=4"], environment={})
    other = resolve(FLAGS | {"seed": 1}, environment={})
    assert one.identity() == elsewhere.identity() != other.identity()
    assert resolve(FLAGS, assignments=["rmu.steps=9"], environment={}).identity() != one.identity()


def test_every_setting_says_what_it_is() -> None:
    def walk(model: type) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                walk(field.annotation)
            else:
                assert field.description, name
    walk(Settings)


@pytest.mark.parametrize("limit", [35, -0.1, float("inf"), float("nan")])
def test_a_limit_that_no_result_can_cross_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match=r"gates\.recovered"):
        resolve({"model": "m", "concept": "covid", "gates": {"recovered": limit}})
