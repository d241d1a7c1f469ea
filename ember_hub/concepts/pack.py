"""A concept pack: all text about one concept, in one folder that a person can read and edit.

    pack.toml            name, title, aliases, keywords, licence, source
    sentences.txt        encyclopedic sentences about the concept, one a line
    questions.jsonl      questions about the concept, split into tune and test
    near-domain.jsonl    questions on related topics that must survive
    relearning.txt       paragraphs an attacker would fine-tune on, one a line

Two files are shared by all packs unless a pack brings its own: `neutral.txt` (sentences on other topics) and
`general.jsonl` (general-knowledge questions). Two more a pack may have or not, with other ways of asking its questions, by id:

    translations.jsonl   questions in other languages, each with its language
    paraphrases.jsonl    questions in other words; options and answer stay

A third, `senses.txt`, holds sentences in which the concept's words mean something else, one a line.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ember_hub.errors import PackInvalid, PackNotFound

Split = Literal["tune", "test"]
SHARED = Path(__file__).parent / "packs" / "shared"
"""The neutral sentences and general questions that every pack falls back on."""


@dataclass(frozen=True)
class Question:
    """One question with its options, of which exactly one is `answer`."""

    id: str
    split: Split
    question: str
    options: tuple[str, ...]
    answer: str
    accept: tuple[str, ...] = ()
    level: str = "common"

    @property
    def right(self) -> int:
        """Index of the answer among the options."""
        return self.options.index(self.answer)


@dataclass(frozen=True)
class ConceptPack:
    """All text about one concept; `sha256` identifies it, file by file."""

    name: str
    title: str
    description: str
    aliases: tuple[str, ...]
    keywords: tuple[str, ...]
    licence: str
    source: str
    sentences: tuple[str, ...]
    questions: tuple[Question, ...]
    near_domain: tuple[Question, ...]
    relearning: tuple[str, ...]
    neutral: tuple[str, ...]
    general: tuple[Question, ...]
    sha256: str
    folder: Path
    translations: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    """By language; ids and splits are those of `questions`."""
    paraphrases: Mapping[str, str] = field(default_factory=dict)
    """By question id."""
    senses: tuple[str, ...] = ()
    """Sentences in which the concept's words mean something else."""
    parts: tuple[ConceptPack, ...] = ()
    """The packs that a combined one is made of."""

    def asked(self, part: Literal["questions", "near_domain", "general"], split: Split) -> tuple[Question, ...]:
        """The questions of one part and one split."""
        return tuple(q for q in getattr(self, part) if q.split == split)

    def neutral_part(self, part: Literal["fit", "tune", "test"]) -> tuple[str, ...]:
        """Neutral sentences for fitting (two thirds), for tuning, and for the final measurement (a sixth each)."""
        places = {"fit": (0, 1, 2, 3), "tune": (4,), "test": (5,)}[part]
        return tuple(line for i, line in enumerate(self.neutral) if i % 6 in places)


def load(folder: Path) -> ConceptPack:
    """Read a pack from its folder.

    Raises:
        PackNotFound: there is no `pack.toml` in the folder.
        PackInvalid: a file is missing or a line cannot be read.
    """
    if not (folder / "pack.toml").is_file():
        raise PackNotFound(f"{folder} is not a concept pack: it has no pack.toml",
                           hint="see `ember-hub concepts list`, or `ember-hub concepts show NAME` for the format")
    files = files_of(folder)
    about = _read_about(files["about"])
    questions = _questions(files["questions"])
    return ConceptPack(
        name=about["name"], title=about["title"], description=about.get("description", ""),
        aliases=tuple(about.get("aliases", ())), keywords=tuple(about.get("keywords", ())),
        licence=about.get("licence", "unknown"), source=about.get("source", "unknown"),
        sentences=_lines(files["sentences"]), questions=questions,
        near_domain=_questions(files["near_domain"]), relearning=_lines(files["relearning"]),
        neutral=_lines(files["neutral"]), general=_questions(files["general"]),
        sha256=_digest(files), folder=folder,
        translations=_translations(files.get("translations"), questions),
        paraphrases=_paraphrases(files.get("paraphrases"), questions),
        senses=_lines(files["senses"]) if "senses" in files else (),
    )


def files_of(folder: Path) -> dict[str, Path]:
    """The files that a pack is read from, by what they are: its own, or those that it falls back on."""
    files = {
        "about": folder / "pack.toml",
        "sentences": folder / "sentences.txt",
        "questions": folder / "questions.jsonl",
        "near_domain": folder / "near-domain.jsonl",
        "relearning": folder / "relearning.txt",
        "neutral": _own_or_shared(folder, "neutral.txt"),
        "general": _own_or_shared(folder, "general.jsonl"),
    }
    optional = {name: folder / f"{name}.{ending}" for name, ending in (
        ("translations", "jsonl"), ("paraphrases", "jsonl"), ("senses", "txt"))}
    return files | {name: path for name, path in optional.items() if path.is_file()}


def _own_or_shared(folder: Path, name: str) -> Path:
    own = folder / name
    return own if own.is_file() else SHARED / name


def _read_about(path: Path) -> dict:
    try:
        about = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise PackInvalid(f"{path}: {error}", hint="mend the TOML at that place") from error
    for key in ("name", "title"):
        if not isinstance(about.get(key), str) or not about[key].strip():
            raise PackInvalid(f"{path}: {key!r} is missing", hint=f'add a line {key} = "..."')
    for key in ("aliases", "keywords"):
        if not isinstance(about.get(key, []), list):
            raise PackInvalid(f"{path}: {key!r} is not a list", hint=f'write {key} = ["...", "..."]')
    return about


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PackInvalid(f"{path} is missing", hint="a pack needs every file of its format") from error
    except UnicodeDecodeError as error:
        raise PackInvalid(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in _text(path).splitlines() if line.strip())


def _questions(path: Path) -> tuple[Question, ...]:
    return tuple(_question(path, number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip())


def _question(path: Path, number: int, line: str) -> Question:
    try:
        row = json.loads(line)
        question = Question(id=str(row["id"]), split=row["split"], question=row["question"].strip(),
                            options=_texts(path, number, row, "options"), answer=row["answer"],
                            accept=_texts(path, number, row, "accept"), level=row.get("level", "common"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackInvalid(f"{path}:{number}: not a question ({error!r})",
                          hint='write {"id", "split", "question", "options", "answer"} on one line') from error
    if question.split not in ("tune", "test"):
        raise PackInvalid(f"{path}:{number}: split {question.split!r}", hint='use "tune" or "test"')
    if question.answer not in question.options:
        raise PackInvalid(f"{path}:{number}: the answer {question.answer!r} is not among the options",
                          hint="make `answer` one of `options`, letter for letter")
    return question


def _texts(path: Path | None, number: int, row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = row.get(key, []) if key == "accept" else row[key]
    # A single text would be taken letter by letter, and each letter would be a right answer.
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise PackInvalid(f"{path}:{number}: {key} is not a list of texts",
                          hint=f'write "{key}": ["...", "..."], with numbers in quotes too')
    return tuple(texts)


def _translations(path: Path | None, questions: Sequence[Question]) -> dict[str, tuple[Question, ...]]:
    """Questions by language, each with the split of the question that it translates."""
    found: dict[str, dict[str, Question]] = {}
    for number, row, original in _about(path, questions):
        try:
            language = row["language"].strip()
            question = Question(id=original.id, split=original.split, question=row["question"].strip(),
                                options=_texts(path, number, row, "options"), answer=row["answer"],
                                accept=_texts(path, number, row, "accept"), level=original.level)
        except (KeyError, TypeError, AttributeError) as error:
            raise PackInvalid(f"{path}:{number}: not a translation ({error!r})",
                              hint='write {"id", "language", "question", "options", "answer"} on one line') from error
        if question.answer not in question.options:
            raise PackInvalid(f"{path}:{number}: the answer {question.answer!r} is not among the options",
                              hint="make `answer` one of `options`, letter for letter")
        if found.setdefault(language, {}).setdefault(question.id, question) is not question:
            raise PackInvalid(f"{path}:{number}: {question.id} in {language!r} a second time", hint="delete one of the lines")
    return {language: tuple(translated.values()) for language, translated in found.items()}


def _paraphrases(path: Path | None, questions: Sequence[Question]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row, original in _about(path, questions):
        if not isinstance(row.get("question"), str) or not row["question"].strip():
            raise PackInvalid(f"{path}:{number}: no question", hint='write {"id", "question"} on one line')
        if original.id in found:
            raise PackInvalid(f"{path}:{number}: {original.id} a second time", hint="delete one of the lines")
        found[original.id] = row["question"].strip()
    return found


def _about(path: Path | None, questions: Sequence[Question]) -> Iterator[tuple[int, dict[str, Any], Question]]:
    """The rows of an optional file, each with its line number and the question that it is about."""
    by_id = {q.id: q for q in questions}
    for number, line in enumerate(_text(path).split("\n") if path else (), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            original = by_id[row["id"]]
        except (ValueError, KeyError, TypeError) as error:
            raise PackInvalid(f"{path}:{number}: is about no question of the pack ({error!r})",
                              hint="begin it with the id of a line of questions.jsonl") from error
        yield number, row, original


def _digest(files: Mapping[str, Path]) -> str:
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(f"{name}\0{hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return sha.hexdigest()
