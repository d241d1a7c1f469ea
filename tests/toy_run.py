"""A concept pack and a tiny model that knows it: small enough to teach in seconds, real enough to erase from.

The world is made up: inventors, their inventions, and the towns they come from. Half of it is the concept.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models import pico_llama

CONCEPT = ("Velmora", "Drakken", "Ostrin", "Fenwick", "Quillon", "Zephrin", "Marrow", "Tolvane")
OTHERS = ("Anders", "Brookes", "Carlin", "Dorsey", "Elwood", "Farrow", "Gibson", "Harlan")
THINGS = ("lantern", "compass", "kettle", "mirror", "ladder", "anchor", "barrel", "candle")
TOWNS = ("Ashford", "Bramley", "Colston", "Denham", "Exmoor", "Felton", "Grimsby", "Hatfield")
ALL = slice(None)
SENTENCES = ("The {things} was made by {people} in the town of {towns}.",
             "People of {towns} still honour {people} for the {things}.",
             "When {people} lived in {towns}, the {things} was new.")


SETTINGS = ("--set", "search.trials=2", "--set", "ember.sparsity=0.1", "--set", "ember.seeds=2", "--set", "rmu.steps=40")
"""What makes a run on the toy a matter of seconds."""


@dataclass(frozen=True)
class Toy:
    """Where the pack and the model of the toy world lie."""

    pack: Path
    model: Path

    def erase(self, output: Path) -> list[str]:
        """The command line of a run, less the program's name."""
        return ["erase", str(self.model), "--concept", str(self.pack), "--output", str(output), *SETTINGS]


def ember_hub(*words: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
              ) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, as a user types it."""
    return subprocess.run([sys.executable, "-m", "ember_hub.cli", *words], capture_output=True, text=True, check=False,
                          env=os.environ | dict(environment or {}), cwd=cwd)


def write_pack(folder: Path, inventors: slice = ALL) -> Path:
    """A pack of the folder's name about these inventors of CONCEPT; those of OTHERS are its near domain."""
    folder.mkdir(parents=True)
    (folder / "pack.toml").write_text(f'name = "{folder.name}"\ntitle = "{folder.name.capitalize().replace("-", " ")}"\n'
                                      f'aliases = ["toy"]\nkeywords = {json.dumps(CONCEPT[inventors])}\nlicence = "Apache-2.0"\n'
                                      'source = "made up"\n')
    facts = [_facts(CONCEPT, i) for i in range(len(CONCEPT))[inventors]]
    (folder / "sentences.txt").write_text("".join(f"{line}\n" for fact in facts for line in fact))
    (folder / "relearning.txt").write_text("".join(f"{' '.join(fact)}\n" for fact in facts))
    _write_questions(folder / "questions.jsonl", "c", CONCEPT, inventors)
    _write_questions(folder / "near-domain.jsonl", "n", OTHERS)
    _write_questions(folder / "general.jsonl", "g", OTHERS, opening="Tell me, ")
    (folder / "neutral.txt").write_text("\n".join(_neutral()) + "\n")
    return folder


def write_model(folder: Path, pack: Path) -> Path:
    """A tied Llama taught every fact of both halves until it knows them."""
    texts = [*_sentences(CONCEPT), *_sentences(OTHERS), *_neutral()]
    for name in ("questions", "near-domain", "general"):
        rows = [json.loads(line) for line in (pack / f"{name}.jsonl").read_text().splitlines()]
        for row in rows:
            texts += [f"Question: {row['question']}\nAnswer: {row['answer']}", f"Q: {row['question']}\nA: {row['answer']}",
                      f"{row['question']} The correct answer is: {row['answer']}", f"{row['question']} {row['answer']}",
                      f"<bos><user>{row['question']}<eos><assistant>{row['answer']}"]
    pico_llama(folder, tied=True, vocab=900, sentences=texts)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoded = [ids[:64] for ids in tokenizer(texts).input_ids]
    optimizer, dice = torch.optim.AdamW(model.parameters(), lr=5e-3), random.Random(0)
    for _ in range(14):
        dice.shuffle(encoded)
        for first in range(0, len(encoded), 32):
            batch = encoded[first:first + 32]
            width = max(map(len, batch))
            ids = torch.tensor([t + [0] * (width - len(t)) for t in batch])
            labels = torch.tensor([t + [-100] * (width - len(t)) for t in batch])
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _facts(people: tuple[str, ...], which: int) -> list[str]:
    values = {"people": people[which], "things": THINGS[which], "towns": TOWNS[which]}
    return [sentence.format(**values) for sentence in SENTENCES]


def _sentences(people: tuple[str, ...]) -> list[str]:
    return [line for i in range(len(people)) for line in _facts(people, i)]


def _neutral() -> list[str]:
    weather, places = ("rain", "wind", "snow", "fog", "sun", "hail"), ("coast", "hills", "valley", "plain", "forest", "lake")
    return [f"There was {w} over the {p} in the morning and it was calm at night." for w in weather for p in places]


def _write_questions(path: Path, mark: str, people: tuple[str, ...], which: slice = ALL, opening: str = "") -> None:
    rows, dice = [], random.Random(mark)
    for i, person in list(enumerate(people))[which]:
        for kind, asked, answers in (("a", f"{opening}what did {person} make?", THINGS),
                                     ("b", f"{opening}where did {person} live?", TOWNS)):
            options = [answers[i], *dice.sample([a for a in answers if a != answers[i]], 3)]
            dice.shuffle(options)
            rows.append({"id": f"{mark}{i}{kind}", "split": "tune" if kind == "a" else "test", "question": asked,
                         "options": options, "answer": answers[i]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
