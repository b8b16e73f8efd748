"""Conversations as text and token ids, by templates of all kinds."""

from __future__ import annotations

import sys
import threading

import pytest
from jinja2 import TemplateError

from lars_agent.errors import ModelUnsupported
from lars_agent.example import Message
from lars_agent.models import template_limits
from lars_agent.models.chat_template import encode_prompt, encode_reply, render_chat, traits_of
from lars_agent.models.open import open_tokenizer
from tests.byte_fallback import byte_fallback_tokenizer
from tests.tiny import CONFIGS, tiny_tokenizer

QUESTION = Message(role="user", content="Who am I?")
ANSWER = Message(role="assistant", content="Mara.")
SYSTEM = Message(role="system", content="Be kind.")
TURN = "<|im_start|>{{ m.role }}\n%s<|im_end|>\n"
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EACH = "{% for m in messages %}"


def tokenizer_with(template: str):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def texts(template: str, *messages: Message) -> tuple[str, str]:
    """The prompt of a conversation, and the reply "Mara." as it is learned."""
    tokenizer = tokenizer_with(template)
    prompt, reply = encode_reply(tokenizer, messages or [QUESTION], "Mara.")
    assert prompt == encode_prompt(tokenizer, messages or [QUESTION])
    return tokenizer.decode(prompt), tokenizer.decode(reply)


PLAIN = EACH + TURN % "{{ m.content }}" + "{% endfor %}" + HEADER
PARTS = "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
SYSTEM_LOST = PLAIN.replace(EACH, "{% for m in messages if m.role != 'system' %}")
PROMPT, REPLY = "<|im_start|>user\nWho am I?<|im_end|>\n<|im_start|>assistant\n", "Mara.<|im_end|>"


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


@pytest.mark.parametrize(
    "template",
    [
        PLAIN,
        PLAIN.replace("{{ m.content }}", PARTS),
        PLAIN.replace("m.content", "m.content[0].text"),
        PLAIN.replace(HEADER, ""),
        PLAIN.replace("m.content", "m.content | trim"),
        PLAIN.replace("<|im_end|>\n", "<|im_end|>{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}"),
    ],
    ids=["plain", "parts", "first part", "no generation prompt", "trim", "nothing behind the last turn"],
)
def test_templates_of_many_kinds_give_the_same_prompt_and_reply(template):
    assert texts(template) == (PROMPT, REPLY)


@pytest.mark.parametrize("template", [NO_SYSTEM, SYSTEM_LOST])
def test_a_system_prompt_that_a_template_does_not_take_begins_the_first_question(template):
    said = [SYSTEM, QUESTION, ANSWER, QUESTION]
    prompt, _ = texts(template, *said)
    assert prompt == PROMPT.replace("Who", "Be kind.\n\nWho").removesuffix("\n") + f"\n{REPLY}\n{PROMPT}"
    assert texts(PLAIN, *said)[0] == "<|im_start|>system\nBe kind.<|im_end|>\n" + PROMPT + f"{REPLY}\n{PROMPT}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}" + HEADER, "user's words"),
        ("{{ messages[-1].text }}" + HEADER, "user's words"),
        ("{{ raise_exception('never') }}", "user's words"),
        ("{{ messages[-1].content }}" + HEADER, "one by one"),
        ("{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + PLAIN, "one by one"),
    ],
)
def test_a_template_that_loses_what_is_said_cannot_be_used(template, words):
    assert words in str(traits_of(tokenizer_with(template)).no_chat)


@pytest.mark.parametrize("opening", ["<think>\n", "Answer:"])
def test_a_template_that_begins_the_reply_itself_is_for_replies_only(opening):
    tokenizer = tokenizer_with(PLAIN.replace("assistant\n", f"assistant\n{{{{ {opening!r} }}}}"))
    traits = traits_of(tokenizer)
    assert traits.no_chat is None
    assert repr(opening) in str(traits.no_training)
    with pytest.raises(ModelUnsupported, match=opening[:6]):
        encode_reply(tokenizer, [QUESTION], "Mara.")
    assert tokenizer.decode(encode_prompt(tokenizer, [QUESTION])).endswith(opening)


def test_a_reply_ends_with_the_token_that_the_template_puts_behind_it():
    tokenizer = byte_fallback_tokenizer("gemma")
    assert (tokenizer.eos_token, traits_of(tokenizer).end) == ("</s>", "<|end|>")
    assert traits_of(tokenizer).ends == {tokenizer.convert_tokens_to_ids("<|end|>")}
    _, reply = encode_reply(tokenizer, [QUESTION], "Hello.")
    assert tokenizer.convert_ids_to_tokens(reply)[-2:] == [".", "<|end|>"]
    tokenizer.chat_template = PLAIN.replace("<|im_end|>", "").replace("<|im_start|>", "\n## ")
    assert (traits_of(tokenizer).end, traits_of(tokenizer).ends) == (None, frozenset())
    _, reply = encode_reply(tokenizer, [QUESTION], "Hello.")
    assert tokenizer.convert_ids_to_tokens(reply)[-1] == "</s>"


IN_PARTS = EACH + TURN % PARTS + "{% endfor %}" + HEADER
THINKS = PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
TRIMS = PLAIN.replace("{{ m.content }}", "{{ m.content | trim }}")
SPACED = EACH + "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + '</s>' }}{% endfor %}"


@pytest.mark.parametrize("template", [PLAIN, IN_PARTS, THINKS, TRIMS, SPACED])
def test_a_begun_reply_stands_as_in_the_whole_conversation(template):
    tokenizer = tokenizer_with(template)
    begun = tokenizer.decode(encode_prompt(tokenizer, [QUESTION], prefill="Mara, or "))
    whole = render_chat(tokenizer, [QUESTION, Message(role="assistant", content="Mara, or Ann.")], reply_follows=False)
    assert whole.startswith(begun)
    assert begun.endswith("Mara, or ")


def test_a_control_token_in_a_begun_reply_is_text():
    tokenizer = tokenizer_with(PLAIN)
    plain, begun = (encode_prompt(tokenizer, [QUESTION], prefill=text) for text in ("Mara", "<|im_end|>Mara"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert plain.count(end) == begun.count(end) == 1


BEFORE_QUESTION = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set rest = messages[1:] %}{% else %}"
    "{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}<|im_start|>{{ m.role }}\n"
    "{% if loop.first %}{{ s }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}" + HEADER
)


@pytest.mark.parametrize("template", [PLAIN, BEFORE_QUESTION, NO_SYSTEM, SYSTEM_LOST])
def test_a_system_prompt_alone_is_in_the_prompt(template):
    tokenizer = tokenizer_with(template)
    assert "Be kind." in tokenizer.decode(encode_prompt(tokenizer, [SYSTEM]))
    prompt, reply = encode_reply(tokenizer, [SYSTEM], "Mara.")
    assert prompt == encode_prompt(tokenizer, [SYSTEM])
    assert tokenizer.decode(reply) == "Mara.<|im_end|>"
