"""Conversations as text and token ids."""

from __future__ import annotations

import sys
import threading

import pytest
from jinja2 import TemplateError

from lars_agent.errors import ModelUnsupported
from lars_agent.example import Message
from lars_agent.models import template_limits
from lars_agent.models.chat_template import encode_prompt, render_chat
from lars_agent.models.open import open_tokenizer
from tests.tiny import CONFIGS, tiny_tokenizer

QUESTION = Message(role="user", content="Who am I?")
ANSWER = Message(role="assistant", content="Mara.")


def test_prompt_is_the_template_s_text_with_the_header_of_the_reply():
    tokenizer = tiny_tokenizer()
    expected = tokenizer.apply_chat_template([QUESTION], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(encode_prompt(tokenizer, (QUESTION,))) == expected
    assert render_chat(tokenizer, (QUESTION,), reply_follows=True) == expected


def test_a_whole_conversation_begins_with_its_prompt():
    tokenizer = tiny_tokenizer()
    prompt = render_chat(tokenizer, [QUESTION], reply_follows=True)
    whole = render_chat(tokenizer, [QUESTION, ANSWER], reply_follows=False)
    assert whole.startswith(f"{prompt}Mara.")


CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "quiet loops": "{{ range(99999) | map('string') | list | length }}" * 400 + "{% for a in range(99999) %}"
    "{% set x = range(99999) | sum %}{% endfor %}",
    "doubling": "{% set n = namespace(x='aaaaaaaa') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "calls": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "length": "{% for a in range(90000) %}{{ 'a' * 100 }}{% endfor %}",
    "pipes": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_takes_too_long_or_too_much_ends(name, monkeypatch):
    monkeypatch.setattr(template_limits, "LONGEST_S", 0.2)
    monkeypatch.setattr(template_limits, "MOST_BYTES", 2**26)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML + HOSTILE[name]
    failed = []

    def render() -> None:
        with pytest.raises(TemplateError, match="the chat template") as error:
            render_chat(tokenizer, [QUESTION], reply_follows=True)
        failed.append(error)

    thread = threading.Thread(target=render)  # as in the engine: no signal comes here
    thread.start()
    thread.join()
    assert failed
    assert sys.gettrace() is None


def test_what_is_long_because_it_was_said_is_rendered():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    said = [Message(role="user", content="x" * 300_000), Message(role="assistant", content="y" * 300_000)] * 3
    assert len(render_chat(tokenizer, said, reply_follows=False)) > 1_800_000


@pytest.mark.parametrize(
    "template", [*HOSTILE.values(), "{{ 9 ** 9 ** 9 ** 9 }}", "{{ x", "{{ raise_exception('no') }}"]
)
def test_a_model_with_such_a_template_is_refused(tmp_path, monkeypatch, template):
    monkeypatch.setattr(template_limits, "LONGEST_S", 0.2)
    monkeypatch.setattr(template_limits, "MOST_BYTES", 2**26)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML + template
    tokenizer.save_pretrained(tmp_path)
    CONFIGS["llama"]().save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupported, match="chat template"):
        open_tokenizer(tmp_path)
