"""Conversations as text and token ids."""

from __future__ import annotations

from lars_agent.example import Message
from lars_agent.models.chat_template import encode_prompt, render_chat
from tests.tiny import tiny_tokenizer

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
