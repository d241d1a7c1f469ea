"""The data layout of the EMBER paper, read into the pack format.

    concept_sentences.json   [{concept, sentences}]           -> sentences.txt
    neutral_sentences.json   [{url, title, sentence}]         -> neutral.txt
    mc_questions.json        {concept: {QA_train, QA_test,    -> questions.jsonl, near-domain.jsonl
                              SimdomQA_train, SimdomQA_test}}     (train becomes tune)
    open_questions.json      the same questions, {q, a}       -> `accept`
    relearn_paragraphs.json  {concept: {RelearnParagraphs}}   -> relearning.txt

Source: EMBER (arXiv 2606.03695), released data.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wordfreq

from ember_hub.concepts import pack as packs
from ember_hub.concepts.check import normalized
from ember_hub.concepts.pack import ConceptPack
from ember_hub.errors import PackInvalid, PackNotFound

KEYWORDS = 40
"""How many keywords an imported pack lists; the layout has none of its own."""
_RARE = 1e-7
_SPLITS = (("tune", "train"), ("test", "test"))


def concept_names(folder: Path) -> tuple[str, ...]:
    """The concepts for which the folder holds sentences and questions, in the order of the file."""
    asked = _read(folder, "mc_questions.json")
    return tuple(entry["concept"] for entry in _read(folder, "concept_sentences.json") if entry["concept"] in asked)


def import_concept(folder: Path, concept_name: str, out_folder: Path) -> ConceptPack:
    """Write one concept of the paper's data as a pack into `out_folder`, and read it back.

    A question is left out when its answer is not among its options, when two options are the same, or when the same
    question stands in the other split (the test split keeps it: it is the one that is reported).

    Raises:
        PackNotFound: the folder has no such concept; the hint offers the nearest names.
        PackInvalid: a file of the layout is missing or cannot be read.
    """
    _require_known(folder, concept_name)
    sentences = _unique(next(entry["sentences"] for entry in _read(folder, "concept_sentences.json")
                             if entry["concept"] == concept_name))
    relearning = _read(folder, "relearn_paragraphs.json").get(concept_name, {}).get("RelearnParagraphs", ())
    keywords = specific_words(sentences, KEYWORDS)
    neutral = [row["sentence"] for row in _read(folder, "neutral_sentences.json")]
    asked = _read(folder, "mc_questions.json")[concept_name]
    opened = _read(folder, "open_questions.json").get(concept_name, {})
    files = {
        "sentences.txt": _lines(sentences),
        "neutral.txt": _lines(_without(neutral, keywords, sentences)),
        "relearning.txt": _lines(_unique(relearning)),
        "questions.jsonl": _rows(_questions(asked, opened, "QA", "qa")),
        "near-domain.jsonl": _rows(_questions(asked, opened, "SimdomQA", "near")),
        "pack.toml": _about(concept_name, keywords),
    }
    out_folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        part = out_folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out_folder / name)
    return packs.load(out_folder)


def specific_words(sentences: Sequence[str], count: int) -> tuple[str, ...]:
    """The words that say most clearly what the sentences are about, clearest first, as they are mostly written.

    Ranked by the G² of a word's count against its frequency in ordinary English (wordfreq); a word must stand in two
    sentences, have four letters, and be fifty times as frequent here.
    """
    spelled: dict[str, Counter[str]] = {}
    seen: Counter[str] = Counter()
    total = 0
    for sentence in sentences:
        words = re.findall(r"[^\W\d_]+", sentence)
        total += len(words)
        for word in words:
            spelled.setdefault(word.lower(), Counter())[word] += 1
        seen.update({word.lower() for word in words})
    scores = {}
    for word, forms in spelled.items():
        often = sum(forms.values())
        lift = often / total / (wordfreq.word_frequency(word, "en") + _RARE)
        if len(word) >= 4 and seen[word] >= 2 and lift >= 50:
            scores[word] = often * math.log(lift)
    best = sorted(scores, key=lambda word: (-scores[word], word))[:count]
    return tuple(spelled[word].most_common(1)[0][0] for word in best)


def _require_known(folder: Path, concept_name: str) -> None:
    known = concept_names(folder)
    if concept_name not in known:
        nearest = difflib.get_close_matches(concept_name, known, n=3, cutoff=0.3) or known
        raise PackNotFound(f"{folder} has no concept {concept_name!r}", hint=f"it has: {', '.join(nearest)}")


def _read(folder: Path, name: str) -> Any:
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PackInvalid(f"{path} is missing", hint="point at the `data` folder of the paper's repository") from error
    except ValueError as error:
        raise PackInvalid(f"{path} is not JSON ({error})", hint="download the file again") from error


def _questions(asked: Mapping[str, Any], opened: Mapping[str, Any], part: str, prefix: str) -> list[dict[str, Any]]:
    """The usable questions of one part, tune before test, each once."""
    taken: set[str] = set()
    kept: dict[str, list[dict[str, Any]]] = {}
    for split, suffix in reversed(_SPLITS):
        answers = {normalized(row["q"]): row["a"] for row in opened.get(f"{part}_{suffix}", ())}
        kept[split] = []
        for number, row in enumerate(asked.get(f"{part}_{suffix}", ()), 1):
            question, options, answer = row["q"].strip(), list(row["options"]), row["correct_answer"]
            key = normalized(question)
            distinct = len({normalized(option) or option for option in options}) == len(options)
            if key in taken or answer not in options or not distinct:
                continue
            taken.add(key)
            accept = [a for a in (answers.get(key),) if a and a != answer]
            kept[split].append({"id": f"{prefix}-{split}-{number:03d}", "split": split, "question": question,
                                "options": options, "answer": answer, "accept": accept})
    return [*kept["tune"], *kept["test"]]


def _without(neutral: Iterable[str], keywords: Iterable[str], sentences: Iterable[str]) -> tuple[str, ...]:
    """The neutral sentences that speak of something else."""
    own = {normalized(keyword) for keyword in keywords}
    taken = {normalized(sentence) for sentence in sentences}
    return tuple(line for line in _unique(neutral)
                 if normalized(line) not in taken and own.isdisjoint(normalized(line).split()))


def _unique(lines: Iterable[str]) -> tuple[str, ...]:
    """Every line once, on one line, in order."""
    first: dict[str, str] = {}
    for line in lines:
        flat = " ".join(line.split())
        if flat:
            first.setdefault(normalized(flat), flat)
    return tuple(first.values())


def _about(concept_name: str, keywords: Sequence[str]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", concept_name.lower()).strip("-")
    fields = {"name": slug, "title": concept_name, "aliases": [concept_name.lower()], "keywords": list(keywords),
              "description": f"{concept_name}, as in the data of the EMBER paper.", "licence": "CC-BY-SA-4.0",
              "source": "EMBER (arXiv 2606.03695), released data; sentences from Wikipedia."}
    # JSON strings and lists of strings are TOML as they stand.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _rows(rows: Iterable[Mapping[str, Any]]) -> str:
    return _lines(json.dumps(row, ensure_ascii=False) for row in rows)
