"""The base examined, the edited model and its controls examined the same way, and all of them again after relearning."""

from __future__ import annotations

from ember_hub.evaluation.attacks.relearning import PROTOCOLS, Level, relearn
from ember_hub.evaluation.examination import Examiner, Measurement
from ember_hub.evaluation.language import predictions
from ember_hub.evaluation.report import BASE, Evidence, Point, Relearned
from ember_hub.stages.workshop import BEFORE, NEUTRAL, Workshop


def examine_base(shop: Workshop) -> None:
    """Which format suits the base, what it knows, and every number that later ones are compared with."""
    def work() -> None:
        examiner = shop.examiner()
        syllabus = examiner.syllabus()
        shop.keep_predictions(predictions(shop.loaded, shop.pack.neutral_part("test")))
        anatomy = shop.loaded.anatomy
        shop.run.write_json(BEFORE, {
            "model": {"is_tied": anatomy.is_tied, "parameters": sum(p.numel() for p in shop.loaded.model.parameters())},
            "syllabus": syllabus.to_json(), "tune": examiner.tune(syllabus).to_json(), "test": examiner.test(syllabus).to_json()})

    shop.run.stage("before", (), (BEFORE, NEUTRAL), work)
    known = shop.syllabus.known["test"]
    asked = len(shop.pack.asked("questions", "test"))
    shop.say("before", f"the base knows {len(known['concept'])} of {asked} concept questions "
                       f"({shop.syllabus.format} format, test split) · {shop.run.folder / BEFORE}")


def examine_edited(shop: Workshop) -> None:
    """The edited model and the controls on the test split, one file each."""
    done_before = shop.edit_stages()
    for arm in shop.arms():
        shop.run.stage(f"after-{arm}", ("before", *done_before), (_arm_file(arm),), lambda arm=arm: _examine(shop, arm))
    shop.say("after", f"{len(shop.arms())} model states examined · {shop.run.folder / 'reports/arms'}")


def _examine(shop: Workshop, arm: str) -> None:
    with shop.edited(shop.arm(arm)):
        measured = shop.examiner().test(shop.syllabus, shop.neutral_predictions())
    shop.run.write_json(_arm_file(arm), measured.to_json())


def attack(shop: Workshop) -> None:
    """Relearning at every level, on the edited model and on each control, one file each."""
    arms = shop.attacked_arms()
    for level in shop.settings.verify.levels:
        for arm in arms:
            _attack_one(shop, arm, level)
    shop.say("attacks", f"relearning at {len(shop.settings.verify.levels)} levels on {len(arms)} model states · "
                        f"{shop.run.folder / 'reports/relearned'}")


def _attack_one(shop: Workshop, arm: str, level: Level) -> None:
    name = _attack_file(arm, level)
    paragraphs = shop.pack.relearning[: shop.settings.verify.paragraphs]

    def work() -> None:
        points: list[dict] = []

        def after_epoch(victim, epoch: int) -> None:
            answers = Examiner(victim, shop.pack, shop.progress).known_concept(shop.syllabus)
            points.append({"epoch": epoch, "values": [a.accuracy for a in answers]})

        victim = relearn(shop.loaded, shop.arm(arm), paragraphs, PROTOCOLS[level], seed=shop.settings.seed,
                         after_epoch=after_epoch, progress=shop.progress)
        measured = Examiner(victim, shop.pack, shop.progress).attacked(shop.syllabus)
        shop.run.write_json(name, {"arm": arm, "level": level, "measured": measured.to_json(), "curve": points})

    shop.run.stage(f"relearned-{level}-{arm}", ("before", *shop.edit_stages()), (name,), work)


def evidence(shop: Workshop) -> Evidence:
    """Everything measured so far, read back from the run folder."""
    arms = {BASE: shop.before("test")}
    for arm in shop.arms():
        arms[arm] = Measurement.from_json(shop.run.read_json(_arm_file(arm)))
    relearned = [_read_attack(shop, arm, level) for level in shop.settings.verify.levels for arm in shop.attacked_arms()]
    return Evidence(shop.syllabus, arms, relearned)


def _read_attack(shop: Workshop, arm: str, level: Level) -> Relearned:
    row = shop.run.read_json(_attack_file(arm, level))
    return Relearned(arm, level, Measurement.from_json(row["measured"]),
                     [Point(p["epoch"], p["values"]) for p in row["curve"]])


def _arm_file(arm: str) -> str:
    return f"reports/arms/{arm}.json"


def _attack_file(arm: str, level: Level) -> str:
    return f"reports/relearned/{level}-{arm}.json"
