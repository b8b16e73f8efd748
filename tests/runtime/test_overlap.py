"""How much of a question another text holds, by the model's token embeddings."""

from __future__ import annotations

import pytest

from lars_agent.models.open import open_model
from lars_agent.runtime.overlap import MOST_PERHAPS, Overlap, ordered
from lars_agent.runtime.relevance import everyday_questions
from lars_agent.runtime.request import GenerationRequest, PastAnswer
from tests.default_model import default_model_folder


def overlap_of(opened) -> Overlap:
    return Overlap(opened.tokenizer, opened.model.get_input_embeddings(), everyday_questions())


@pytest.fixture(scope="module")
def overlap() -> Overlap:
    return overlap_of(open_model(default_model_folder()))


def request(question: str, *past: PastAnswer) -> GenerationRequest:
    return GenerationRequest(messages=({"role": "user", "content": question},), recalled=past)


def test_a_text_holds_all_of_what_it_repeats_and_nothing_of_no_text(opened):
    share = overlap_of(opened).share
    assert share("Where is it?", "Where is it? There.") == pytest.approx(1, abs=1e-5)
    assert share("Where is it?", "") == share("", "Where is it?") == 0
    assert share("a b", "a") < 1


def test_of_what_perhaps_fits_the_nearest_few_are_taken_and_all_that_surely_does(opened):
    near = [PastAnswer("Where is it?", f"There {number}.", "perhaps") for number in range(MOST_PERHAPS + 2)]
    far = PastAnswer("0123456789", "9876543210", "perhaps")
    sure = PastAnswer("0123456789", "9876543210", "like")
    fitting = overlap_of(opened).fitting(request("Where is it?", far, *near, sure))
    assert len(fitting) == MOST_PERHAPS + 1
    assert 0 not in fitting
    assert list(fitting)[-1] == len(near) + 1


def test_what_is_near_in_both_comes_first():
    assert ordered({4: 0.9, 7: 0.5, 8: 0.1}, [0.1, 0.3, 0.95]) == [(4, 0.1), (7, 0.3), (8, 0.95)]


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("question", "past"),
    [
        ("Where do we store the lawn mower?", "In which place do we keep the mower?"),
        ("laundry which day?", "On what day do I do the laundry?"),
        ("What is the dose of the iron tablets I swallow at night?", "How many iron tablets do I take at night?"),
        ("When is the rubbish collected here?", "On which day do they collect the rubbish?"),
    ],
)
def test_a_question_in_other_words_is_nearer_than_one_about_something_else(overlap, question, past):
    others = ["Which train do I take?", "Who looks after the plants?", "What do I pay the gardener?"]
    known = [PastAnswer(text, "It is so.", "perhaps") for text in (*others, past)]
    assert list(overlap.fitting(request(question, *known))) == [len(others)]
