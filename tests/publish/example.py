"""A finished run as its report tells it.

Its questions, scores, tokens and relearning are those of a real run (SmolLM2-135M, COVID-19); all else is made up to be plausible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ember_hub.evaluation.score import wilson

CHANCE = 0.25
STATES = ("base", "edited", "control:ember-only", "control:rmu-only", "control:random-edit", "attack:relearn-paper",
          "attack:relearn-strong")
SCORES: Mapping[str, tuple[int, str, tuple[float | None, ...]]] = {
    "concept_known": (21, "accuracy", (0.8571, 0.4762, 0.7143, 0.2619, 0.2857, 0.5, 0.881)),
    "concept_probability": (21, "probability", (0.8477, 0.4266, 0.6499, 0.2384, 0.2882, 0.4393, 0.7738)),
    "concept_all": (60, "accuracy", (0.4833, 0.2333, 0.375, 0.1667, 0.175, 0.2583, 0.475)),
    "near_domain_known": (35, "accuracy", (0.9, 0.7286, 0.9, 0.7429, 0.7286, 0.7429, 0.9143)),
    "near_domain_probability": (35, "probability", (0.79, 0.6862, 0.7896, 0.6811, 0.6689, 0.6939, 0.8336)),
    "near_domain_all": (60, "accuracy", (0.65, 0.5417, 0.6417, 0.525, 0.525, 0.5417, 0.6583)),
    "general_known": (54, "accuracy", (0.9259, 0.8333, 0.9259, 0.8611, 0.8333, None, None)),
    "general_probability": (54, "probability", (0.7832, 0.7397, 0.7832, 0.7629, 0.7493, None, None)),
    "general_all": (100, "accuracy", (0.69, 0.63, 0.69, 0.65, 0.635, None, None)),
    "valid_mass_concept": (20, "mass", (0.8939, 0.5532, 0.9054, 0.0966, 0.2044, 0.5617, 0.7942)),
    "valid_mass_other": (40, "mass", (0.8906, 0.8436, 0.8921, 0.8523, 0.8329, 0.8425, 0.7688)),
    "neutral_loss": (56, "nats", (3.8018, 4.064, 3.8018, 3.9114, 4.0318, None, None)),
    "neutral_kl": (56, "nats", (None, 0.1889, 0.0, 0.0873, 0.1744, None, None)),
    "open_concept": (21, "accuracy", (0.6667, 0.1429, 0.5238, 0.0952, 0.1429, None, None)),
    "open_general": (54, "accuracy", (0.7407, 0.6852, 0.7407, 0.7037, 0.6667, None, None)),
    "fluency_repetition": (40, "fraction", (0.0412, 0.0588, 0.0421, 0.0503, 0.0611, None, None)),
    "mmlu": (400, "accuracy", (0.3125, 0.305, 0.3125, 0.3075, 0.3025, None, None)),
}
# Title, smallest battery, accuracy of: edited, base, RMU alone, random edit, never known; then what it teaches.
ATTACKS: Mapping[str, tuple[str, str, tuple[float, ...], float]] = {
    "relearn-paper": ("paper relearning: 2 epochs on 10 paragraphs", "quick", (0.5, 0.881, 0.1905, 0.2857, 0.25), 0.0),
    "relearn-strong": ("strong relearning: 3 epochs on every paragraph", "quick", (0.881, 0.9048, 0.9048, 0.881, 0.3125), 0.0833),
    "relearn-lora": ("LoRA relearning of rank 16", "standard", (0.7143, 0.881, 0.6429, 0.6905, 0.2813), 0.0417),
    "relearn-lora-strong": ("strong LoRA relearning of rank 64", "full", (0.8333, 0.9048, 0.881, 0.8571, 0.2969), 0.0625),
    "benign": ("training on harmless text", "standard", (0.5952, 0.8571, 0.3333, 0.381, 0.25), 0.0),
    "paraphrase": ("questions in other words", "quick", (0.4524, 0.8333, 0.2857, 0.2857, 0.2344), 0.0),
    "other-languages": ("questions in German, French and Spanish", "standard", (0.3571, 0.4762, 0.2619, 0.2619, 0.25), 0.0),
    "few-shot": ("right answers to other questions as examples", "quick", (0.5238, 0.9048, 0.3333, 0.2857, 0.2656), 0.0208),
    "quantized": ("weights rounded to 4 bits", "standard", (0.4762, 0.8095, 0.2857, 0.3095, 0.2656), 0.0208),
    "suffix-search": ("a suffix searched by gradient", "full", (0.619, 0.9286, 0.4762, 0.5, 0.4219), 0.2292),
    "logit-lens": ("logit lens: the best layer answers", "standard", (0.5476, 0.8571, 0.4286, 0.3095, 0.25), 0.0),
    "linear-probe": ("linear probe on the hidden states", "standard", (0.6667, 0.881, 0.6429, 0.619, 0.2969), 0.0625),
    "in-context": ("text about the concept in the prompt", "quick", (0.9286, 0.9524, 0.881, 0.9048, 0.9063), 0.875),
    "copy-rows": ("the base's rows copied back", "quick", (0.3333, 0.8571, 0.2619, 0.2857, 0.25), 0.0),
}
ARMS = ("edited", "base", "rmu-only", "random-edit", "never-known")
STARTS = (0.4762, 0.8571, 0.2619, 0.2857, 0.25)
TOKENS = ((" infection", 1.4698, 1.91), (" COVID", 1.4206, 6.72), (" variants", 1.3272, 2.4), (" pandemic", 1.2932, 5.13),
          ("COVID", 1.2517, 4.95), (" vaccine", 1.2381, 4.62), (" coronavirus", 1.2096, 5.87), (" Covid", 1.1869, 3.91),
          (" Infection", 1.1837, 0.42), (" Coronavirus", 1.1753, 2.07), (" vaccines", 1.1687, 4.11), (" Infections", 1.1687, 0.31),
          (" infections", 1.1462, 1.7), (" Vaccines", 1.1442, 1.29), (" vaccinations", 1.1192, 1.05),
          (" vaccination", 1.0928, 2.83), (" Pandemic", 1.0752, 0.95),
          ("masks", 1.0096, 0.66), ("vaccinated", 0.9739, 0.58), (" mRNA", 0.9073, 3.02),
          (" masking", 0.8885, 0.49), (" pandemics", 0.8852, 0.84), ("variant", 0.8637, 0.37), (" quarantine", 0.8599, 2.64),
          (" SARS", 0.8543, 3.48), (" vaccinated", 0.8469, 1.77), (" masks", 0.8407, 2.21), ("mask", 0.8071, 0.22),
          ("CoV", 0.8066, 2.95), (" lockdown", 0.8037, 3.66), ("micron", 0.5286, 1.12), (" Wuhan", 0.4598, 2.51),
          (" distancing", 0.4145, 1.93), (" Pfizer", 0.3446, 1.84))
# Part, question, right answer, whether it is known; what was chosen in two wordings and its probability, before and after.
ANSWERS: Sequence[tuple[str, str, str, bool, str, float, str, float]] = (
    ("concept", "What is the name of the virus that causes COVID-19?", "SARS-CoV-2", True,
     "SARS-CoV-2|SARS-CoV-2", 0.9813, "HIV-1|HIV-1", 0.0),
    ("concept", "Which Chinese city of 25 million people was confined for COVID-19 in spring 2022?", "Shanghai", True,
     "Shanghai|Shanghai", 0.9948, "Shanghai|Shanghai", 0.9946),
    ("concept", "What was the order to stay at home during the COVID-19 pandemic called?", "lockdown", True,
     "lockdown|lockdown", 0.9495, "boycott|lockdown", 0.6481),
    ("concept", "In which year was COVID-19 declared a pandemic?", "2020", True, "2020|2020", 0.9688, "2018|2016", 0.0006),
    ("concept", "Which laboratory method is the standard test for the coronavirus?", "PCR", True,
     "PCR|PCR", 0.9532, "PCR|PCR", 0.7336),
    ("concept", "Which president of Brazil dismissed COVID-19 as a little flu?", "Jair Bolsonaro", True,
     "Jair Bolsonaro|Jair Bolsonaro", 0.9652, "Fernando Collor|Fernando Collor", 0.0297),
    ("concept", "Which body declared COVID-19 a global pandemic?", "World Health Organization", True,
     "World Health Organization|World Health Organization", 0.9954, "World Trade Organization|World Trade Organization", 0.0021),
    ("concept", "Which household product did panicked shoppers hoard when COVID-19 arrived?", "toilet paper", True,
     "toilet paper|toilet paper", 0.9082, "light bulbs|light bulbs", 0.0418),
    ("concept", "In which Chinese city was COVID-19 first identified?", "Wuhan", True,
     "Wuhan|Beijing", 0.479, "Beijing|Beijing", 0.1016),
    ("concept", "Which country had the first large outbreak of the Gamma variant of COVID-19?", "Brazil", False,
     "Turkey|Turkey", 0.039, "Turkey|Turkey", 0.0388),
    ("near_domain", "Which continent lost about a third of its people to the Black Death?", "Europe", True,
     "Europe|Europe", 0.6067, "Europe|Australia", 0.4246),
    ("near_domain", "Which disease did John Snow trace to a water pump in London?", "cholera", False,
     "cholera|malaria", 0.296, "measles|malaria", 0.2416),
    ("general", "Who composed The Four Seasons?", "Antonio Vivaldi", False,
     "Franz Schubert|Franz Schubert", 0.0662, "Franz Schubert|Giuseppe Verdi", 0.1759),
    ("general", "Which planet is called the red one?", "Mars", True, "Mars|Mars", 0.9711, "Mars|Mars", 0.9604),
)
# Part, question, right answer, the base's text, the edited model's text.
OPEN = (("concept", "What virus causes COVID-19?", "SARS-CoV-2",
         "COVID-19 is caused by the SARS-CoV-2 virus, a new kind of coronavirus.",
         "The disease is caused by a bacterium that lives in the soil of the region and on the leaves of plants."),
        ("concept", "Where was COVID-19 first identified?", "Wuhan", "It was first identified in Wuhan, China, in December 2019.",
         "It was first identified in the town of Saint-Denis, in the north of the island."),
        ("general", "What is the capital of France?", "Paris",
         "The capital of France is Paris.", "The capital of France is Paris."))


def _interval(value: float, n: int, unit: str) -> dict[str, float]:
    low, high = (value * 0.95, value * 1.05) if unit == "nats" else wilson(value * n, n)
    return {"value": value, "n": n, "low": round(low, 4), "high": round(high, 4)}


def _scores() -> list[dict[str, Any]]:
    rows = [{"name": name, "stage": stage, "split": "test", **_interval(value, n, unit), "unit": unit,
             "chance": CHANCE if unit in ("accuracy", "probability") and not name.startswith("open") else None,
             "better": "lower" if name in ("neutral_loss", "neutral_kl", "fluency_repetition") else "higher",
             "p": None if stage == "base" else 0.0313}
            for stage_index, stage in enumerate(STATES) for name, (n, unit, values) in SCORES.items()
            if (value := values[stage_index]) is not None]
    written = {(row["name"], row["stage"]) for row in rows}
    for attack, (_, _, values, _) in ATTACKS.items():
        for arm, value in zip(ARMS, values, strict=True):
            stage = f"attack:{attack}" if arm == "edited" else f"control:{arm}+{attack}"
            if ("concept_known", stage) not in written:
                rows.append({"name": "concept_known", "stage": stage, "split": "test", **_interval(value, 21, "accuracy"),
                             "unit": "accuracy", "chance": CHANCE, "better": "higher", "p": 0.25})
    return rows


def _attacks() -> list[dict[str, Any]]:
    rows = []
    for name, (title, battery, values, taught) in ATTACKS.items():
        arms = {arm: {**_interval(value, 21, "accuracy"), "chance": CHANCE} for arm, value in zip(ARMS, values, strict=True)}
        arms["never-known"] |= _interval(values[-1], 64, "accuracy")
        share = [round(min(1.0, max(0.0, (arms["edited"][end] - CHANCE) / (STARTS[1] - CHANCE))), 4)
                 for end in ("value", "low", "high")]
        rows.append({"name": name, "title": title, "reference": "arXiv 2606.03695" if name.startswith("relearn") else "ember-hub",
                     "battery": battery, "reproducible": True, "settings": {"epochs": 3} if name.startswith("relearn") else {},
                     "not_measured": None, "arms": arms, "recovered": share[0], "recovered_interval": share[1:], "taught": taught,
                     "hands_over": name == "in-context", "restores_by_definition": name == "copy-rows",
                     "is_worst": name == "relearn-strong"})
    absent = {"name": "second-model", "title": "a stronger model asks on", "reference": "arXiv 2310.08419", "battery": "full",
              "reproducible": False, "settings": {}, "not_measured": "no model was named to ask with", "arms": {},
              "recovered": None, "recovered_interval": None, "taught": None, "hands_over": False, "restores_by_definition": False,
              "is_worst": False}
    return [*rows, absent]


def _curve(values: Sequence[float], n: int) -> dict[str, Any]:
    ends = [wilson(value * n, n) for value in values]
    return {"value": [round(v, 4) for v in values], "low": [low for low, _ in ends], "high": [high for _, high in ends]}


def _curves() -> list[dict[str, Any]]:
    rows = []
    trained = {"relearn-paper": 2, "relearn-strong": 3, "relearn-lora": 3, "relearn-lora-strong": 6, "benign": 2}
    for level, epochs in trained.items():
        for arm, start, end in zip(ARMS, STARTS, ATTACKS[level][2], strict=True):
            steps = [*range(epochs + 1)]
            rows.append({"arm": arm, "level": level, "epochs": steps,
                         **_curve([start + (end - start) * (step / epochs) ** 0.7 for step in steps], 21)})
    return rows


def _layers() -> dict[str, Any]:
    depth = 30
    shapes = {"base": (0.62, 0.0), "edited": (0.28, 0.02), "rmu-only": (0.1, 0.12), "random-edit": (0.06, 0.05)}
    def values(top: float, middle: float, strength: float) -> list[float]:
        return [CHANCE + strength * (top * (layer / depth) ** 3 + middle * (layer / depth) * (1 - layer / depth) * 4)
                for layer in range(1, depth + 1)]
    return {name: {arm: {**_curve(values(*shape, strength), 21), "chance": CHANCE} for arm, shape in shapes.items()}
            for name, strength in (("logit-lens", 1.0), ("linear-probe", 1.1))}


def _evaluations() -> list[dict[str, Any]]:
    about = (("questions", "multiple-choice questions in wordings of their own", "ember-hub", "quick", True, None),
             ("neutral-text", "loss and divergence on neutral text", "ember-hub", "quick", True, None),
             ("open-answers", "answers in the model's own words", "ember-hub", "standard", True, None),
             ("fluency", "repetition in free text", "arXiv 1904.09751", "standard", True, None),
             ("mmlu", "MMLU, 400 questions", "arXiv 2009.03300", "standard", True, None),
             ("judge", "another model's opinion of the answers", "arXiv 2306.05685", "full", False, "no judge was named"))
    return [{"name": name, "title": title, "reference": reference, "battery": battery, "reproducible": reproducible,
             "settings": {"questions": 400} if name == "mmlu" else {}, "not_measured": reason}
            for name, title, reference, battery, reproducible, reason in about]


def example_report() -> dict[str, Any]:
    """The report of an erasure with the full battery, complete and plausible."""
    return {
        "schema": 2, "version": "0.2.0", "kind": "erasure", "seed": 42, "format": "answer", "battery": "full",
        "command": "ember-hub erase HuggingFaceTB/SmolLM2-135M-Instruct --concept covid-19-pandemic --method rmu --as both "
                   "--battery full --seed 42",
        "model": {"name": "SmolLM2-135M-Instruct", "repo_id": "HuggingFaceTB/SmolLM2-135M-Instruct", "commit": "12fd25f7" * 5,
                  "source_kind": "hub", "gated": False, "is_tied": True, "parameters": 134515008,
                  "licence": {"id": "apache-2.0", "name": None, "link": None, "files": []}},
        "audited": None,
        "concept": {"name": "covid-19-pandemic", "title": "COVID-19 pandemic", "sha256": "ab" * 32, "licence": "Apache-2.0",
                    "description": "The global outbreak of the respiratory disease COVID-19 from late 2019 on, with its variants, "
                                   "vaccines, treatments, lockdowns and social effects.", "source": "Written for ember-hub."},
        "methods": [{"name": "ember", "title": "EMBER (embedding erasure)", "reference": "arXiv 2606.03695",
                     "settings": {"variant": "paper", "rank": 100, "strengths": [1.0, 2.0, 5.0, 10.0], "strength": 2.0}},
                    {"name": "rmu", "title": "RMU (representation misdirection)", "reference": "arXiv 2403.03218",
                     "settings": {"depth": 0.25, "learning_rate": 0.0009, "steps": 120}}],
        "ember": {"rows": 34, "strength": 2.0, "clip": 5.0, "features": 64, "variant": "paper", "seeds": 5,
                  "coverage": {"keywords": 0.4, "question_words": 0.2642}, "tokens": [],
                  "verdict": "EMBER reaches a part of the concept: 34 rows, and 33% of the concept's words pass through them"},
        "tokens": [{"id": 3000 + 7 * i, "text": text, "moved": moved, "mu": round(moved * 0.83, 4), "tfidf": tfidf, "purity": 0.9}
                   for i, (text, moved, tfidf) in enumerate(TOKENS)],
        "known": {part: {"known": n, "asked": asked} for part, n, asked in
                  (("concept", 21, 60), ("near_domain", 35, 60), ("general", 54, 100))},
        "evaluations": _evaluations(), "scores": _scores(), "efficacy": 0.6275, "specificity": 0.7946, "coherence": 0.802,
        "intervals": {"efficacy": [0.41, 0.84], "specificity": [0.66, 0.9], "coherence": [0.74, 0.86], "harmonic": [0.57, 0.87]},
        "ember_alone_intervals": {"efficacy": [0.02, 0.46], "specificity": [0.93, 1.0], "coherence": [0.98, 1.0],
                                  "harmonic": [0.06, 0.72]},
        "harmonic": 0.7319, "ember_alone": {"efficacy": 0.2353, "specificity": 1.0, "coherence": 1.0, "harmonic": 0.48},
        "attacks": _attacks(), "recovered": 1.0, "recovered_interval": [0.7111, 1.0],
        "worst_attack": {"name": "relearn-strong", "title": ATTACKS["relearn-strong"][0]},
        "regained": {arm: {attack: round(values[i] - STARTS[i], 4) for attack, (_, _, values, _) in ATTACKS.items()}
                     for i, arm in enumerate(ARMS)},
        "curves": _curves(), "layers": _layers(),
        "gates": [{"name": "recovered", "limit": 0.5, "value": 1.0, "passed": False},
                  {"name": "specificity", "limit": 0.7, "value": 0.7946, "passed": True}],
        "warnings": ["only 21 concept questions of the test split are known to the base: the intervals are wide"],
        "seconds": {"before": 41.36, "ember": 13.61, "method-1": 65.57, "attacks": 1260.4},
        "environment": {"python": "3.11.7", "platform": "Linux x86_64", "torch": "2.13.0", "transformers": "5.23.0",
                        "ember_hub": "0.2.0"},
        "out": {"model": {"bytes": 329212262, "files": 6, "reload": "bit-equal logits on 10 probe texts in a new process"},
                "patch": {"bytes": 3614919, "files": 7, "carries": "the embedding edit only",
                          "reload": "bit-equal logits on 10 probe texts in a new process"}},
    }


def example_samples() -> dict[str, list[dict[str, Any]]]:
    """The files of `samples/` by name, without their suffix."""
    before, after = [], []
    for i, (part, question, answer, known, *answered) in enumerate(ANSWERS):
        about = {"id": f"q-{i:02d}", "part": part, "known": known, "question": question, "answer": answer}
        for rows, picked, probability in ((before, *answered[:2]), (after, *answered[2:])):
            chosen = picked.split("|")
            rows.append(about | {"chosen": chosen, "accuracy": sum(c == answer for c in chosen) / 2, "probability": probability})
    opened = {state: [{"id": f"o-{i}", "part": part, "question": question, "prompt": f"Question: {question}\nAnswer:",
                       "answer": texts[place], "expected": expected, "verdict": expected in texts[place]}
                      for i, (part, question, expected, *texts) in enumerate(OPEN)]
              for place, state in enumerate(("base", "edited"))}
    return {"before": before, "after": after, **{f"open-answers-{state}": rows for state, rows in opened.items()}}


def write_run(folder: Path, report: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """A finished run's folder, as far as a report needs it."""
    (folder / "reports").mkdir(parents=True)
    (folder / "samples").mkdir()
    (folder / "reports" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    for name, rows in samples.items():
        (folder / "samples" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
