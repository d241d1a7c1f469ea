"""MMLU: where its questions come from, and what a model's letters are worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ember_hub.concepts.pack import ConceptPack
from ember_hub.concepts.pack import load as load_pack
from ember_hub.concepts.prompts import chat, letter_prompt
from ember_hub.edits.edit import Edit, Replaced
from ember_hub.errors import EvaluationError
from ember_hub.evaluation.evaluations.mmlu import Mmlu, questions_of, sampled
from ember_hub.source.load import LoadedModel, load
from tests.evaluation.subjects import subject, weights
from tests.hub.conftest import hub, hub_environment  # noqa: F401  (fixtures)
from tests.toy_run import Toy

REAL = Path(__file__).parents[3] / "shared/data/mmlu/test_2000_seed0.jsonl"
ROWS = [{"question": f"Which of these is {number}?", "choices": [str(number + i) for i in range(4)], "answer": number % 4,
         "subject": "counting"} for number in range(12)]
needs_datasets = pytest.mark.skipif(not find_spec("datasets"), reason="datasets is not installed (the extra `bench`)")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mmlu") / "questions.jsonl", ROWS)


@pytest.fixture(scope="module")
def pack(toy: Toy) -> ConceptPack:
    return load_pack(toy.pack)


@pytest.fixture(scope="module")
def always_b(llama_folder: Path, source: Path) -> LoadedModel:
    """A model that has learned to answer B, whatever it is asked."""
    loaded = load(llama_folder, "cpu")
    prompts = [chat(letter_prompt(q, shift)[0], loaded.tokenizer) for q in questions_of(str(source))[:4] for shift in range(4)]
    ids = torch.tensor([loaded.tokenizer(f"{prompt}B<eos>", add_special_tokens=False).input_ids[-80:] for prompt in prompts])
    loaded.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=5e-3)
    for _ in range(12):
        logits = loaded.model(input_ids=ids).logits[:, -3:-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[:, -2:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    loaded.model.requires_grad_(False)
    return loaded


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def silenced(loaded: LoadedModel) -> Edit:
    """An edit after which every token is as likely as any other."""
    return Edit({"model.norm.weight": Replaced(torch.zeros(loaded.anatomy.d_model))})


def test_a_model_that_always_says_b_is_right_as_often_as_b_is(always_b: LoadedModel, pack: ConceptPack, source: Path) -> None:
    before = weights(always_b)
    written = Mmlu(source=str(source), format="generation").measure(subject(always_b, pack))
    assert [row["answer"] for row in written.samples] == ["B"] * 12
    assert written.readings[0].values == {f"counting/{i + 1}": float(i % 4 == 1) for i in range(12)}
    assert written.details == {"valid": 1.0}

    likely = Mmlu(source=str(source)).measure(subject(always_b, pack))
    accuracy, probability = likely.readings
    assert (accuracy.name, accuracy.unit, accuracy.chance, probability.name) == ("mmlu", "accuracy", 0.25, "mmlu_probability")
    # In each order of the options another quarter of the answers stands under B.
    assert accuracy.mean == pytest.approx(0.25)
    assert likely.details["letter_mass"] > 0.5
    assert all(torch.equal(parameter, before[name]) for name, parameter in always_b.model.named_parameters())


def test_a_model_that_says_nothing_is_at_chance_by_likelihood_and_never_right_in_writing(
        always_b: LoadedModel, pack: ConceptPack, source: Path) -> None:
    silent = subject(always_b, pack, silenced(always_b))
    likely = Mmlu(source=str(source)).measure(silent)
    assert set(likely.readings[1].values.values()) == {0.25}
    assert likely.details["letter_mass"] < 0.01
    written = Mmlu(source=str(source), format="generation").measure(silent)
    assert written.readings[0].mean == written.details["valid"] == 0.0


def test_the_seed_draws_the_questions_and_keeps_their_order(source: Path) -> None:
    questions = questions_of(str(source))
    drawn = sampled(questions, 5, seed=1)
    assert drawn == sampled(questions, 5, seed=1) != sampled(questions, 5, seed=2)
    assert [q for q in questions if q in drawn] == list(drawn)
    assert sampled(questions, 200, seed=1) == questions


@needs_datasets
def test_every_kind_of_file_and_folder_holds_the_same_questions(source: Path, tmp_path: Path) -> None:
    import datasets
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "copy/all").mkdir(parents=True)
    (tmp_path / "copy/virology").mkdir()
    table = pyarrow.Table.from_pylist(ROWS)
    for file in ("all/test-00000-of-00001.parquet", "virology/test-00000-of-00001.parquet"):
        parquet.write_table(table, tmp_path / "copy" / file)
    parquet.write_table(table.slice(0, 2), tmp_path / "copy/all/dev-00000-of-00001.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    for path in (tmp_path / "copy", tmp_path / "copy/all/test-00000-of-00001.parquet", tmp_path / "saved", arrow, source.parent):
        assert questions_of(str(path)) == questions_of(str(source)), path


def test_a_question_whose_right_answer_is_listed_twice_is_left_out(tmp_path: Path) -> None:
    twice = ROWS[1] | {"choices": ["1", "2", "2", "3"], "answer": 1}
    assert [q.id for q in questions_of(str(write(tmp_path / "q.jsonl", [ROWS[0], twice, ROWS[2]])))] == ["counting/1", "counting/3"]


def test_a_file_needs_no_subjects_and_may_have_numbers_for_choices(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": [7, 0.5, 9, "10"], "answer": 1}
    question, = questions_of(str(write(tmp_path / "q.jsonl", [row])))
    assert (question.id, question.options, question.answer) == ("mmlu/1", ("7", "0.5", "9", "10"), "0.5")


@pytest.mark.parametrize(("row", "says"), [
    ({"question": "Who?", "choices": ["a", "b", "c", "d"]}, "row 2: not a question (KeyError('answer'))"),
    (ROWS[0] | {"answer": "B"}, "row 2: not a question (ValueError(\"4 choices, and 'B' is the answer\"))"),
    (ROWS[0] | {"choices": "abcd"}, "row 2: not a question (ValueError(\"'abcd' are no choices\"))"),
    (ROWS[0] | {"choices": ["a", "b", "c", None]}, "row 2: not a question (ValueError(\"['a', 'b', 'c', None] are no choices\"))"),
    (ROWS[0] | {"choices": ["a", "b"]}, "row 2: not a question (ValueError('2 choices, and 0 is the answer'))"),
])
def test_what_is_no_question_is_named_by_its_row(row: dict, says: str, pack: ConceptPack, tmp_path: Path) -> None:
    file = str(write(tmp_path / "q.jsonl", [ROWS[0], row]))
    with pytest.raises(EvaluationError) as error:
        questions_of(file)
    assert error.value.message == f"{file}, {says}"
    assert '"choices" (four texts)' in error.value.hint
    assert Mmlu(source=file).missing(pack) == f"{error.value.message} ({error.value.hint})"


def test_a_file_that_is_not_there_is_missing_and_one_that_is_there_is_not(source: Path, pack: ConceptPack, tmp_path: Path) -> None:
    assert Mmlu(source=str(source)).missing(pack) is None
    reason = Mmlu(source=str(tmp_path / "none.jsonl")).missing(pack)
    assert "No such file" in reason
    assert "--set mmlu.source=FILE.jsonl" in reason
    (tmp_path / "empty").mkdir()
    assert "holds no question" in Mmlu(source=str(tmp_path / "empty")).missing(pack)


def test_without_its_libraries_what_to_install_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.parquet").touch()
    script = ("import sys\nsys.modules |= {'datasets': None, 'pyarrow': None}\n"
              "from ember_hub.evaluation.evaluations.mmlu import Mmlu\n"
              "for source in ('cais/mmlu', sys.argv[1]):\n    print(Mmlu(source=source).missing(None))")
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "q.parquet"], capture_output=True, text=True, check=True)
    way = "(pip install 'ember-hub[bench]', or give a file instead: --set mmlu.source=FILE.jsonl)"
    assert done.stdout.splitlines() == [f"cais/mmlu cannot be read without datasets {way}",
                                        f"{tmp_path / 'q.parquet'} cannot be read without pyarrow {way}"]


@needs_datasets
def test_a_dataset_is_missing_unless_the_hub_or_the_cache_has_it(hub, hub_environment, tmp_path: Path) -> None:  # noqa: F811
    repository = tmp_path / "repository"
    (repository / "all").mkdir(parents=True)
    (repository / "README.md").write_text("---\nconfigs: [{config_name: all, data_files: [{split: test, path: all/test*}]}]\n---\n")
    write(repository / "all/test.jsonl", ROWS)
    hub.add_repo("lab/mmlu", repository, kind="datasets")
    for name, file, text in (("scripted", "scripted.py", "pass\n"), ("broken", "all/test.jsonl", '{"question": "Who?"}\n{"que')):
        (tmp_path / name / "all").mkdir(parents=True)
        (tmp_path / name / "README.md").write_text("" if name == "scripted" else (repository / "README.md").read_text())
        (tmp_path / name / file).write_text(text)
        hub.add_repo(f"lab/{name}", tmp_path / name, kind="datasets")

    def asked(*names: str, **environment: str) -> list[str]:
        """Why each is missing, and how many questions the others hold, from a process of its own."""
        script = ("import sys\nfrom ember_hub.errors import EvaluationError\n"
                  "from ember_hub.evaluation.evaluations.mmlu import Mmlu, questions_of\n"
                  "for name in sys.argv[1:]:\n"
                  "    try:\n        print(Mmlu(source=name).missing(None) or len(questions_of(name)))\n"
                  "    except EvaluationError as error:\n        print(error.message)")
        done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True,
                              env=os.environ | hub_environment | environment)
        return done.stdout.splitlines()

    found, unknown, scripted, broken = asked("lab/mmlu", "lab/none", "lab/scripted", "lab/broken")
    assert found == "12"
    assert scripted == "lab/scripted cannot be read: Dataset scripts are no longer supported, but found scripted.py"
    assert broken.startswith("lab/broken cannot be read: ")
    assert "the Hub answers 401 for the dataset lab/none" in unknown
    cached, unknown = asked("lab/mmlu", "lab/none", HF_HUB_OFFLINE="1")
    assert cached == "12"
    assert "lab/none cannot be read" in unknown
    (unreachable,) = asked("lab/mmlu", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the Hub does not answer" in unreachable
    assert "HF_HUB_OFFLINE=1" in unreachable


@pytest.mark.skipif(not REAL.is_file(), reason="the sample of MMLU is not there")
def test_the_real_questions_are_read(pack: ConceptPack) -> None:
    questions = questions_of(str(REAL))
    assert len(questions) == len({q.id for q in questions}) == 1999, "one of 2000 lists its right answer twice"
    assert {len(q.options) for q in questions} == {4}
    assert Mmlu(source=str(REAL)).missing(pack) is None
