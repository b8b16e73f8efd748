"""Which past question a new one asks again: by the default model's hidden states."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lars_agent.models.open import open_model
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.relevance import KEPT, Relevance
from lars_agent.store.adapters import AdapterStore
from tests.default_model import default_model_folder
from tests.runtime.test_engine import warm

READ_S = 900.0
TAUGHT = ["Where is my umbrella?", "Who cuts my hair?", "When do my lessons begin?", "How much is my rent?"]


@pytest.fixture(scope="module")
def relevance(tmp_path_factory) -> Iterator[Relevance]:
    """That of an engine, which keeps what it reads beside the model: daemons of later tests need not read it again."""
    store = AdapterStore(tmp_path_factory.mktemp("adapters"))
    engine = Engine(open_model(default_model_folder()), store, threads=1)
    yield warm(engine, READ_S)._relevance
    engine.close()


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("question", "nearest"),
    [
        ("In which place did I leave my umbrella?", 0),
        ("What is the name of the person who cuts my hair?", 1),
        ("At what time do I have to be in class?", 2),
        ("What do I pay for the flat each month?", 3),
    ],
)
def test_the_nearest_question_is_the_one_with_the_same_answer(relevance, question, nearest):
    cosines = relevance.cosines(question, TAUGHT)
    assert cosines.index(max(cosines)) == nearest


@pytest.mark.real_model
def test_a_question_for_a_fact_is_told_from_one_for_help(relevance):
    facts = ["Where does my dentist live?", "What is my hamster called?", "Which drink does Anna's aunt like?"]
    others = ["How do I train my dog?", "Write a poem for my aunt.", "What should I cook for my guests?"]
    assert [relevance.asks_fact(text) for text in facts + others] == [True] * 3 + [False] * 3


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("kind", "questions"),
    [
        ("fact", ["What is the capital of Norway?", "Who built the pyramids?", "Name three birds.", "What is 8 + 5?"]),
        ("how to", ["How do I sew a button?", "How should I cut an onion?", "How can I stop snoring?"]),
        ("advice", ["Should I buy a sofa?", "Which tent should I buy?"]),
        ("about", ["Tell me something about foxes.", "Explain tides."]),
        ("writing", ["Compose a rap.", "Translate I am hungry into Dutch."]),
        ("talk", ["Good afternoon!", "Bye!"]),
    ],
)
def test_the_kind_of_a_question_about_nobody_is_told(relevance, kind, questions):
    assert {question: relevance.kind_of(question) for question in questions} == dict.fromkeys(questions, kind)


@pytest.mark.real_model
def test_a_kind_is_taught_by_two_questions_once_all_are_read(relevance):
    relevance.forget()
    asked = ["How do I sew a button?", "Who built the pyramids?", "Should I go?", "Bye!", "How do I ski?"]
    assert relevance.kinds_taught(asked) is None
    assert relevance.warm()  # one more; the others at the next call
    assert relevance.kinds_taught(asked) == {"how to"}
    assert relevance.kinds_taught([]) == set()


def test_vectors_are_kept_within_a_limit_and_forgotten(tmp_path):
    asked = []

    def embed(text: str) -> torch.Tensor:
        asked.append(text)
        return torch.randn(8, generator=torch.Generator().manual_seed(len(text)))

    relevance = Relevance(embed, tmp_path, "tiny")
    while relevance.warm():
        pass
    assert relevance.cosines("Who?", []) == []
    relevance.cosines("Who?", ["Who is it?"])
    everyday = len(asked)
    relevance.cosines("Who?", ["Who is it?"])
    assert len(asked) == everyday
    relevance.cosines("Who?", [str(number) for number in range(KEPT)])
    relevance.cosines("Who?", ["Who is it?"])
    assert asked[-1] == "Who is it?"
    relevance.forget()
    relevance.cosines("Who?", ["Who is it?"])
    assert asked[-2:] == ["Who?", "Who is it?"]


def test_everyday_questions_are_read_once_for_each_model_and_again_where_their_file_is_damaged(tmp_path):
    asked = []

    def embed(text: str) -> torch.Tensor:
        asked.append(text)
        return torch.randn(8, generator=torch.Generator().manual_seed(len(text)))

    def made(model: str) -> Relevance:
        asked.clear()
        relevance = Relevance(embed, tmp_path, model)
        while relevance.warm():
            pass
        assert relevance.is_ready
        return relevance

    before = made("one").cosines("Who?", ["Who is it?", "Where?"])
    assert len(asked) >= 80
    assert made("one").cosines("Who?", ["Who is it?", "Where?"]) == before
    assert asked == ["Who?", "Who is it?", "Where?"]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    made("one")
    assert len(asked) >= 80
    made("two")
    assert len(asked) >= 80
    tmp_path.chmod(0o500)
    made("three")  # a folder that cannot be written
    tmp_path.chmod(0o700)


def test_questions_are_compared_as_soon_as_the_everyday_ones_are_read(tmp_path):
    def embed(text: str) -> torch.Tensor:
        return torch.randn(8, generator=torch.Generator().manual_seed(len(text)))

    relevance = Relevance(embed, tmp_path, "tiny")
    while not relevance.can_compare:
        assert relevance.warm()
    assert not relevance.is_ready
    asked, others = "What is my dog called?", ["What is the name of my dog?", "What is my dog called?", "Where am I?"]
    cosines = relevance.cosines(asked, others)
    assert cosines[1] == pytest.approx(max(cosines)) == pytest.approx(1)
    assert isinstance(relevance.asks_fact(asked), bool)


def test_a_past_question_counts_in_all_its_wordings_whoever_it_is_about(tmp_path):
    asked, vectors = [], dict[str, torch.Tensor]()

    def embed(text: str) -> torch.Tensor:
        asked.append(text)
        text = text.replace("Which name has", "What do people call").replace("What is the age of", "Is it young, ")
        return vectors.setdefault(text, torch.randn(64, generator=torch.Generator().manual_seed(len(vectors))))

    relevance = Relevance(embed, tmp_path, "tiny")
    while relevance.warm():
        pass
    shipped = len(asked)
    past = ["How old is my goat?", "What is my goat called?", "Does it bite?"]
    cosines = relevance.cosines("Which name has my goat?", past)
    assert cosines[1] == pytest.approx(max(cosines)) == pytest.approx(1.0)
    assert asked[shipped:] == [
        "Which name has my one?",
        "How old is my one?",
        "What is my one called?",
        "Does it bite?",
    ]
    assert relevance.cosines("Which name has my boat?", ["What is my boat called?"]) == [pytest.approx(1.0)]
    assert len(asked) == shipped + 4  # of another thing nothing more is to be read


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("question", "nearest"),
    [
        ("By which name do people know my boss?", 0),
        ("In which trade is my boss employed?", 1),
        ("Which food must my boss avoid?", 2),
        ("Which town is the home of my boss?", 3),
        ("On which day was my boss born?", 4),
        ("What does my boss like to drink best?", 5),
    ],
)
def test_of_what_is_known_about_somebody_that_is_found_which_is_asked_for_in_other_words(relevance, question, nearest):
    past = [
        "What is my boss called?",
        "What is the job of my boss?",
        "What is my boss allergic to?",
        "Where does my boss live?",
        "When is the birthday of my boss?",
        "What is the favourite drink of my boss?",
    ]
    cosines = relevance.cosines(question, past)
    assert cosines.index(max(cosines)) == nearest
