"""General knowledge after the erasure: a sample of MMLU (arXiv 2009.03300), from the Hub or from a file."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ember_hub.concepts.pack import ConceptPack, Question
from ember_hub.concepts.prompts import LETTERS, letter_prompt
from ember_hub.errors import EvaluationError
from ember_hub.evaluation.base import Battery, Cost, Evaluation
from ember_hub.evaluation.evaluations.letters import meant
from ember_hub.evaluation.generation import Decoding, prompt, write
from ember_hub.evaluation.knowledge import ask
from ember_hub.evaluation.reading import Measured, Reading
from ember_hub.progress import Progress
from ember_hub.source.anatomy import first_line

if TYPE_CHECKING:
    from ember_hub.evaluation.subject import Subject
    from ember_hub.source.load import LoadedModel

SUFFIXES = (".jsonl", ".parquet", ".arrow")
OPTIONS = 4
CHANCE = 1 / OPTIONS
TOKENS_OF_QUESTION = 170
TOKENS_OF_ANSWER = 6
SECONDS = 3.0
"""How long the Hub may take to say whether it has the dataset."""
_FROM_FILE = "give a file instead: --set mmlu.source=FILE.jsonl"
_INSTALL = "pip install 'ember-hub[bench]'"


class Mmlu(Evaluation):
    """Accuracy on general-knowledge questions with lettered options, known to the base or not."""

    name: ClassVar[str] = "mmlu"
    title: ClassVar[str] = "MMLU"
    reference: ClassVar[str] = "MMLU, arXiv 2009.03300; asked as in EMBER, arXiv 2606.03695"
    battery: ClassVar[Battery] = "standard"
    scores: ClassVar[tuple[str, ...]] = ("mmlu", "mmlu_probability")

    source: str = Field("cais/mmlu", description="Dataset on the Hub, or a .jsonl, .parquet or .arrow file or a folder of them.")
    questions: int = Field(200, ge=1, description="Questions sampled with the seed.")
    format: Literal["likelihood", "generation"] = Field(
        "likelihood", description="Read the likeliest letter off the next token, or let the model write its answer.")

    def missing(self, pack: ConceptPack) -> str | None:
        try:
            if _is_file(self.source):
                questions_of(self.source)
            else:
                _require_dataset(self.source)
        except EvaluationError as error:
            return f"{error.message} ({error.hint})"
        return None

    def sources(self) -> Sequence[Path]:
        return _files(Path(self.source).expanduser()) if _is_file(self.source) else ()

    def cost(self, subject: Subject) -> Cost:
        read = self.questions * TOKENS_OF_QUESTION
        if self.format == "generation":
            return Cost(read=read, written=self.questions * TOKENS_OF_ANSWER)
        return Cost(read=read)

    def measure(self, subject: Subject) -> Measured:
        questions = sampled(questions_of(self.source), self.questions, subject.seed)
        with subject.state() as loaded:
            examine = _generated if self.format == "generation" else _likelihoods
            return examine(loaded, questions, subject.progress)


def _likelihoods(loaded: LoadedModel, questions: Sequence[Question], progress: Progress) -> Measured:
    answers = ask(loaded, questions, "letter", "measure", progress, most=1)
    samples = [{"id": q.id, "prompt": q.question, "answer": q.options[a.choices[0]], "expected": q.answer,
                "verdict": a.choices[0] == q.right} for q, a in zip(questions, answers, strict=True)]
    return Measured((Reading("mmlu", "accuracy", {a.id: a.accuracy for a in answers}, CHANCE),
                     Reading("mmlu_probability", "probability", {a.id: a.probability for a in answers}, CHANCE)),
                    samples, {"letter_mass": fmean(a.mass for a in answers)})


def _generated(loaded: LoadedModel, questions: Sequence[Question], progress: Progress) -> Measured:
    prompts = [prompt(loaded.tokenizer, text, text) for text, _ in map(letter_prompt, questions)]
    written = write(loaded, prompts, Decoding(TOKENS_OF_ANSWER), progress)
    chosen = [meant(answer.text, q.options) for q, (answer,) in zip(questions, written, strict=True)]
    samples = [{"id": q.id, "prompt": put.text, "answer": answer.text, "expected": LETTERS[q.right], "verdict": option == q.right}
               for q, put, (answer,), option in zip(questions, prompts, written, chosen, strict=True)]
    accuracy = Reading("mmlu", "accuracy", {row["id"]: float(row["verdict"]) for row in samples}, CHANCE)
    return Measured((accuracy,), samples, {"valid": fmean(option is not None for option in chosen)})


def sampled(questions: tuple[Question, ...], count: int, seed: int) -> tuple[Question, ...]:
    """As many of the questions, in their order, the same for every state of an audit."""
    places = sorted(random.Random(seed).sample(range(len(questions)), min(count, len(questions))))
    return tuple(questions[i] for i in places)


@functools.lru_cache(maxsize=1)
def questions_of(source: str) -> tuple[Question, ...]:
    """All test questions of a source, less those that list the right answer twice; kept for the next state.

    Raises:
        EvaluationError: it cannot be read, or its rows are no questions.
    """
    import httpx2

    found, rows = [], 0
    try:
        for row in _rows(source):
            question = _question(row, rows + 1)
            rows += 1
            if question.options.count(question.answer) == 1:
                found.append(question)
    except ImportError as error:
        raise EvaluationError(f"{source} cannot be read without {error.name}", hint=f"{_INSTALL}, or {_FROM_FILE}") from error
    except (OSError, httpx2.HTTPError) as error:
        raise EvaluationError(f"{source} cannot be read: {first_line(error)}", hint=_FROM_FILE) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{source}, row {rows + 1}: not a question ({error!r})",
                              hint='a row has "question", "choices" (four texts), "answer" (index of the right one), and may '
                                   'have "subject"') from error
    if not found:
        raise EvaluationError(f"{source} holds no question", hint=_FROM_FILE)
    return tuple(found)


def _question(row: Mapping[str, Any], number: int) -> Question:
    choices, right = row["choices"], row["answer"]
    if not isinstance(choices, list) or not all(type(choice) in (str, int, float) and str(choice).strip() for choice in choices):
        raise ValueError(f"{choices!r} are no choices")
    if len(choices) != OPTIONS or right not in range(OPTIONS):
        raise ValueError(f"{len(choices)} choices, and {right!r} is the answer")
    options = tuple(map(str, choices))
    return Question(id=f"{row.get('subject', 'mmlu')}/{number}", split="test", question=row["question"].strip(), options=options,
                    answer=options[right])


def _rows(source: str) -> Iterator[Mapping[str, Any]]:
    if not _is_file(source):
        yield from _dataset(source)
        return
    for file in _files(Path(source).expanduser()):
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
        else:
            yield from _table(file)


def _dataset(source: str) -> Iterable[Mapping[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset(source, "all", split="test")
    except (RuntimeError, ValueError, DatasetsError) as error:
        # What went wrong while a table was made is told by the cause alone.
        raise EvaluationError(f"{source} cannot be read: {first_line(error.__cause__ or error)}", hint=_FROM_FILE) from error


def _table(file: Path) -> list[Mapping[str, Any]]:
    from pyarrow import ipc, parquet

    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()
    with ipc.open_stream(file) as stream:
        return stream.read_all().to_pylist()


def _is_file(source: str) -> bool:
    return Path(source).expanduser().exists() or source.endswith(SUFFIXES)


def _files(path: Path) -> list[Path]:
    """The file itself, or those of a folder that hold the test split: a copy of the Hub's repository, or what `datasets` saved."""
    if not path.is_dir():
        return [path]
    folder = path / "all" if (path / "all").is_dir() else path
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)
    return [file for file in files if "test" in file.relative_to(folder).as_posix()] or files


def _require_dataset(source: str) -> None:
    """Refuse early what `datasets` would look for in vain, for half a minute.

    Raises:
        EvaluationError: the library is not installed, or the dataset neither on the Hub nor, without the Hub, in the cache.
    """
    if not find_spec("datasets"):
        raise EvaluationError(f"{source} cannot be read without datasets", hint=f"{_INSTALL}, or {_FROM_FILE}")
    import datasets
    import httpx2

    if datasets.config.HF_HUB_OFFLINE:
        questions_of(source)
        return
    try:
        status = httpx2.get(f"{datasets.config.HF_ENDPOINT}/api/datasets/{source}", timeout=SECONDS,
                            follow_redirects=True).status_code
    except httpx2.HTTPError as error:
        raise EvaluationError(f"the Hub does not answer: {first_line(error)}",
                              hint=f"if {source} is in the cache set HF_HUB_OFFLINE=1; else {_FROM_FILE}") from error
    if status >= 400:
        raise EvaluationError(f"the Hub answers {status} for the dataset {source}", hint=_FROM_FILE)
