"""Replies that follow a grammar, whatever the model would rather say; and the requests that are refused."""

from __future__ import annotations

import json
import re
import sys

import jsonschema_rs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lars_agent.errors import ParameterRefused
from lars_agent.models.open import open_model
from lars_agent.runtime import constraint as constraints
from lars_agent.runtime import grammar as grammars
from lars_agent.runtime.constraint import Constraints
from lars_agent.runtime.detokenize import TextStream
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import GenerationRequest, Grammar, PastAnswer, Sampling
from lars_agent.runtime.sampling import Sampler
from lars_agent.store.adapters import AdapterStore
from tests.byte_fallback import KINDS, byte_fallback_tokenizer
from tests.runtime.test_engine import LONG_S, request
from tests.tiny import save_tiny, tiny_tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
    },
    "anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}],
}
ANY_OBJECT = Grammar(schema='{"type": "object"}')
ENDLESS = Grammar(regex="[a-c]*")
BLANKS = re.compile(r"\n\s*\n|(?<![\n ])  |\n {33}|\t")  # none of which stand between two tokens of JSON
LEAVES = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "string", "maxLength": 4},
        {"type": "string", "pattern": "^[a-z]{2}-[0-9]{1,3}$"},
        {"type": "integer", "minimum": -5, "maximum": 250},
        {"type": "string", "format": "date"},
        {"enum": ["é", '"', 3, None, {"a": [1]}]},
        {"const": "\u2028\\"},
    ]
)


def objects(inner):
    return st.dictionaries(st.sampled_from(["a", "b c", "ü", "$ref", '"']), inner, min_size=1, max_size=3).map(
        lambda found: {
            "type": "object",
            "properties": found,
            "required": list(found)[:2],
            "additionalProperties": False,
        }
    )


def lists(inner):
    return inner.map(lambda item: {"type": "array", "items": item, "maxItems": 2})


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        objects(inner) | lists(inner) | st.lists(inner, min_size=2, max_size=2).map(lambda two: {"anyOf": two})
    ),
    max_leaves=6,
)
BY_SCHEMA = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def of(schema, **changes) -> Grammar:
    return Grammar(schema=json.dumps(schema), **changes)


@pytest.fixture(scope="module")
def engine(opened, tmp_path_factory):
    made = Engine(opened, AdapterStore(tmp_path_factory.mktemp("adapters")), queue_size=8, threads=1)
    yield made
    made.close()


def replies(engine, seeds=range(4), **changes):
    asked = {"max_new_tokens": 400, "temperature": 1.5} | changes
    tickets = [engine.submit(request(seed=seed, **asked)) for seed in seeds]
    return [ticket.result(LONG_S) for ticket in tickets]


def test_every_reply_satisfies_its_schema_at_any_temperature_with_several_at_once(engine):
    @BY_SCHEMA
    @given(SCHEMAS)
    def check(schema):
        for reply in replies(engine, seeds=range(2), grammar=of(schema)):
            jsonschema_rs.validate(schema, json.loads(reply.text))
            assert reply.finish_reason == "eos_token"
            assert not BLANKS.search(re.sub(r'"(\\.|[^"\\])*"', '""', reply.text))

    check()


def test_a_schema_that_refers_to_itself_is_followed(engine):
    for reply in replies(engine, grammar=of(TREE), max_new_tokens=40):
        if reply.finish_reason == "eos_token":
            jsonschema_rs.validate(TREE, json.loads(reply.text))
        else:
            assert len(reply.token_ids) == 40


@pytest.mark.parametrize("pattern", ["[a-c]{2,4}-\\d", "^(yes|no)$", " ?é+|[^a]{3}", "a\\/b\"'", "", "(?i)x?"])
def test_every_reply_matches_its_pattern_from_beginning_to_end(engine, pattern):
    for reply in replies(engine, grammar=Grammar(regex=pattern), max_new_tokens=60):
        if reply.finish_reason == "eos_token":
            assert re.fullmatch(pattern, reply.text)


def test_a_reply_without_grammar_is_the_same_beside_others(engine):
    alone = replies(engine, seeds=[5], max_new_tokens=30)[0]
    tickets = [engine.submit(request(grammar=form, seed=5, temperature=1.5)) for form in (of(PERSON), None, ENDLESS)]
    assert [ticket.result(LONG_S) for ticket in tickets][1].token_ids == alone.token_ids[:12]
    assert replies(engine, seeds=[5], max_new_tokens=30)[0] == alone


def test_the_reason_is_length_where_the_tokens_run_out_first_and_only_there(engine):
    whole = replies(engine, seeds=[1], grammar=of(PERSON))[0]
    cut = replies(engine, seeds=[1], grammar=of(PERSON), max_new_tokens=whole.generated_tokens - 1)[0]
    assert (cut.finish_reason, cut.text) == ("length", whole.text[:-1])
    assert replies(engine, seeds=[1], grammar=of(PERSON), max_new_tokens=whole.generated_tokens)[0].text == whole.text
    assert whole.finish_reason == "eos_token"


def test_a_model_that_would_write_blanks_for_ever_cannot(engine):
    blanks = tuple((token, 99.0) for text in (" ", "\n", "\t") for token in tiny_tokenizer().encode(text))
    for temperature in (0.0, 1.0):
        (reply,) = replies(engine, seeds=[1], grammar=of(PERSON), logit_bias=blanks, temperature=temperature)
        jsonschema_rs.validate(PERSON, json.loads(reply.text))


def test_recalled_answers_stop_sequences_streams_and_probabilities_go_with_a_grammar(engine):
    past = PastAnswer("Hello?", "Rex, of course.", fit="same")
    recall = {"recalled": (past,), "recall_limit": 1, "recall_tokens": 100, "recall_strength": 20.0}
    asked = request(grammar=of(PERSON), max_new_tokens=400, temperature=1.0, seed=3, logprobs=2, **recall)
    ticket = engine.submit(asked)
    text = "".join(piece.text for piece in ticket)
    reply = ticket.result(LONG_S)
    jsonschema_rs.validate(PERSON, json.loads(text))
    assert [one.chosen.token_id for one in reply.logprobs] == list(reply.token_ids)
    (cut,) = replies(engine, seeds=[1], grammar=of(PERSON), stop=("age",))
    assert (cut.finish_reason, cut.text.split('"')[-1]) == ("stop_sequence", "")


def test_a_prefix_and_a_suffix_stand_around_it(engine):
    form = of(PERSON, prefix="<call>\n", suffix="\n</call>")
    for reply in replies(engine, grammar=form):
        assert reply.text.startswith("<call>\n{")
        jsonschema_rs.validate(PERSON, json.loads(reply.text.removeprefix("<call>\n").removesuffix("\n</call>")))


def test_the_fallback_backend_keeps_to_it_too(tmp_path):
    made = Engine(open_model(save_tiny(tmp_path / "m", "gpt2"), torch.float32), AdapterStore(tmp_path / "a"), threads=1)
    for reply in replies(made, seeds=range(2), grammar=of(PERSON)):
        jsonschema_rs.validate(PERSON, json.loads(reply.text))
    made.close()


def written(tokenizer, kept: Constraints, form: Grammar, seed: int, end: int = 2) -> str:
    """The text of a reply of random logits."""
    asked = GenerationRequest((), grammar=form, temperature=1.0)
    sampler = Sampler(asked, seed, [], constraint=kept.of(asked))
    stream, text, generator = TextStream(tokenizer, ()), "", torch.Generator().manual_seed(seed)
    while (token := sampler(torch.randn(320, generator=generator))) != end:
        text += stream.push(token)
    return text + stream.flush()


@pytest.mark.parametrize("kind", KINDS)
def test_blanks_that_a_decoder_drops_and_bytes_of_characters_are_counted(kind):
    tokenizer = byte_fallback_tokenizer(kind)
    kept = Constraints(tokenizer, frozenset({2}), 320)
    schema = {"type": "array", "items": {"enum": ["hé", " he", "€"]}, "minItems": 2, "maxItems": 2}
    for seed in range(3):
        jsonschema_rs.validate(schema, json.loads(written(tokenizer, kept, of(schema), seed)))
        assert written(tokenizer, kept, Grammar(regex=" he|le? "), seed) in (" he", "l ", "le ")


def test_a_token_that_is_not_allowed_is_never_drawn():
    form = GenerationRequest((), grammar=Grammar(regex="[a-c]{50}"))
    letters = set(tiny_tokenizer().encode("abc"))
    kept = Constraints(tiny_tokenizer(), frozenset({2}), 300)
    for sampling in (
        Sampling(),
        Sampling(temperature=1.5),
        Sampling(temperature=1e-30),
        Sampling(temperature=9, top_k=1),
    ):
        sampler, logits = Sampler(sampling, 0, [], constraint=kept.of(form)), torch.full((300,), 1e9)
        logits[list(letters)] = torch.tensor([-1e9, -1e9, -2e9])
        logits[2] = -1e20
        assert {sampler(logits) for _ in range(20)} <= letters


def test_a_bias_bans_and_forces_tokens(engine):
    free = replies(engine, seeds=[1], max_new_tokens=30)[0].token_ids
    banned = tuple((token, -100.0) for token in set(free) | {2})
    for reply in replies(engine, logit_bias=banned, max_new_tokens=30):
        assert not set(reply.token_ids) & set(free)
        assert reply.finish_reason == "length"
    assert set(replies(engine, seeds=[1], logit_bias=((50, 100.0),), max_new_tokens=9)[0].token_ids) == {50}
    assert set(replies(engine, seeds=[1], logit_bias=((2, 100.0),))[0].token_ids) == set()
    with pytest.raises(ParameterRefused, match=r"logit_bias: token 300 is none of the model's 300"):
        engine.submit(request(logit_bias=((300, 1.0),)))


def nested(depth: int) -> str:
    return '{"items":' * depth + "{}" + "}" * depth


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (of({"type": "string", "not": {"const": "a"}}), 'Unimplemented keys: ["not"]'),
        (of({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}), "'/$defs/b' does not exist"),
        (of({"$ref": "https://example.com/schema.json"}), "https://example.com/schema.json"),
        (of({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}), "use anyOf"),
        (of({"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
        (of({"allOf": [{"$ref": "#"}]}), "no reply can satisfy it"),
        (of({"type": "integer", "multipleOf": 999983}), "takes more than 2 s or 512 MiB to compile"),
        (of({"enum": ["x" * 70_000]}), "has 70,014 characters; give at most 65,536"),
        (Grammar(schema=nested(100)), "nested more than 64 deep"),
        (Grammar(schema=nested(5000)), "nested more than 64 deep"),
        (Grammar(schema="[]"), "must be an object"),
        (of({"type": "string", "pattern": "(a)\\1"}), "backreferences are not supported"),
        (Grammar(regex="(?=a)b"), "look-ahead"),
        (Grammar(regex="(a"), "unclosed group"),
        (Grammar(regex="a" * 70_000), "has 70,000 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_grammar_that_cannot_be_enforced_is_refused_by_the_field_s_name(form, words):
    kept = Constraints(tiny_tokenizer(), frozenset({2}), 300)
    asked = GenerationRequest((), grammar=Grammar(schema=form.schema, regex=form.regex, field="format"))
    with pytest.raises(ParameterRefused) as refused:
        kept.of(asked)
    assert refused.value.param == "format"
    assert words in str(refused.value)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_a_reply_whose_grammar_grows_too_complex_ends_with_an_error_and_the_next_one_starts_anew(engine, monkeypatch):
    form = Grammar(regex="[ab]*a[ab]{60}", field="regex")
    monkeypatch.setattr(grammars, "MAX_STATES", 200)
    for _ in range(2):
        ticket = engine.submit(request(grammar=form, max_new_tokens=400, temperature=3.0, seed=1))
        with pytest.raises(ParameterRefused, match="regex: became too complex"):
            ticket.result(LONG_S)
    monkeypatch.undo()
    assert replies(engine, seeds=[1], grammar=of(PERSON))[0].finish_reason == "eos_token"


def test_checks_are_remembered_up_to_a_number(monkeypatch):
    monkeypatch.setattr(constraints, "KNOWN_GRAMMARS", 1)
    kept = Constraints(tiny_tokenizer(), frozenset({2}), 300)
    kept.of(GenerationRequest((), grammar=ENDLESS))
    monkeypatch.setattr(grammars, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    assert kept.of(GenerationRequest((), grammar=ENDLESS)) is not None
    with pytest.raises(Exception, match="the check of the grammar failed"):
        kept.of(GenerationRequest((), grammar=ANY_OBJECT))
    monkeypatch.undo()
    monkeypatch.setattr(constraints, "KNOWN_GRAMMARS", 1)
    kept.of(GenerationRequest((), grammar=ANY_OBJECT))
    assert list(kept._refusals) == [Grammar(schema=ANY_OBJECT.schema, field="")]


def test_a_tokenizer_that_llguidance_cannot_read_is_told():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.decoder = None
    with pytest.raises(ParameterRefused, match="grammar: cannot be enforced, as llguidance does not know"):
        Constraints(tokenizer, frozenset({2}), 300).of(GenerationRequest((), grammar=ENDLESS))


def test_a_slow_start_of_the_check_does_not_count(monkeypatch):
    spent = f"import time\nwhile time.process_time() < {grammars.CHECK_CPU_S}: pass\n"  # a Raspberry Pi's imports
    code = f"{spent}from lars_agent.runtime import grammar\ngrammar.main()"
    monkeypatch.setattr(grammars, "COMMAND", (sys.executable, "-P", "-c", code))
    assert grammars.refusal(Grammar(regex="[ab]")) is None
