"""Conversations as text and token ids, by the model's own chat template.

Templates differ in more than their words. `traits_of` renders a few conversations of known texts, once for each
template, and tells what is done for it: messages as lists of parts, a system prompt put into the first question, the
header of a reply that the template does not begin itself, the token that ends a turn, the form of tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lars_agent.errors import ModelUnsupported
from lars_agent.example import Message
from lars_agent.models.control_tokens import ControlTokens, Shield, control_tokens, shield
from lars_agent.models.template_limits import bounded_rendering
from lars_agent.models.tools import DESCRIBED, Tool, ToolTraits, ToolUse, shown

Turn = Mapping[str, Any]
SYSTEM, USER, ASSISTANT, AGAIN = "zxsystemxz", "zxuserxz", "zxassistantxz", "zxagainxz"
ASKED, ANSWERED = {"role": "user", "content": USER}, {"role": "assistant", "content": ASSISTANT}
SHOWN = 40  # characters of a template's text in an error
MOST_TIMES, MOST_CHARS = 4, 2**15  # of a conversation's characters, and of what each turn may add
TOOL_TIMES = 32  # of the characters of tools, which some templates indent


@dataclass(frozen=True)
class TemplateTraits:
    """Facts about a chat template, found by rendering conversations.

    Attributes:
        in_parts: True if it takes the content of a message as a list of parts only.
        folds_system: True if it has no system prompt, which then stands at the beginning of the first question.
        needs_question: True if it shows a system prompt only before a question; alone it then is one.
        header: of a reply, where it does not write one itself.
        ends: ids of the tokens that it puts behind an assistant's turn; `end` is the text of that of the last turn.
        tools: how it shows tools.
        no_chat, no_training: the reason why it cannot be used, or not for training; None if it can.
    """

    in_parts: bool = False
    folds_system: bool = False
    needs_question: bool = False
    header: str = ""
    ends: frozenset[int] = frozenset()
    end: str | None = None
    tools: ToolTraits = DESCRIBED
    no_chat: str | None = None
    no_training: str | None = None


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, prefill: str = "", tools: ToolUse | None = None
) -> list[int]:
    """Return the token ids of a conversation, up to where the assistant's reply begins, or through its beginning.

    The reply may call `tools`. If it must call one, the beginning of the call is part of the prompt.
    """
    form = tool_traits(tokenizer, tools)
    given = list(tools.definitions) if tools is not None and form.in_template else []
    begun = [Message(role="assistant", content=prefill)] if prefill else []
    (*turns, last), words = _shield(tokenizer, [*shown(messages, form, tools), *begun, {"tools": given}])
    if begun:
        return words.encode(_begun(tokenizer, turns, last["tools"]))
    text = render_chat(tokenizer, turns, reply_follows=True, tools=last["tools"])
    return words.encode(text + form.opening(tools))


def encode_reply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], response: str
) -> tuple[list[int], list[int]]:
    """Return the token ids of the conversation's prompt, and those of `response` as they stand behind it in the whole
    conversation, through the token that ends the turn.

    Raises ModelUnsupported if the template does not put the reply behind the prompt.
    """
    asked = shown(messages, tool_traits(tokenizer))
    turns, words = _shield(tokenizer, [*asked, Message(role="assistant", content=response)])
    prompt_text = render_chat(tokenizer, turns[:-1], reply_follows=True)
    whole_text = render_chat(tokenizer, turns, reply_follows=False)
    if not whole_text.startswith(prompt_text):
        raise ModelUnsupported(_reply_elsewhere(prompt_text, whole_text))
    reply_text = _through_end_of_turn(tokenizer, whole_text[len(prompt_text) :])
    prompt, whole = words.encode(prompt_text), words.encode(prompt_text + reply_text)
    if whole[: len(prompt)] == prompt:
        return prompt, whole[len(prompt) :]
    return prompt, words.encode(reply_text)  # a token reaches across


def _begun(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], tools: Sequence[Tool] = ()) -> str:
    """Return a conversation as text through its last message, which is the beginning of the assistant's reply.

    It stands as in the whole conversation; behind the generation prompt where the template would not show all of it.
    """
    *asked, reply = turns
    marked = {**reply, "content": reply["content"] + AGAIN}
    text, found, _ = render_chat(tokenizer, [*asked, marked], reply_follows=False, tools=tools).rpartition(AGAIN)
    if found and text.endswith(reply["content"].lstrip()):
        return text
    return render_chat(tokenizer, asked, reply_follows=True, tools=tools) + str(reply["content"])


def tool_traits(tokenizer: PreTrainedTokenizerBase, tools: ToolUse | None = None) -> ToolTraits:
    """Return the form of tools in the tokenizer's conversations: in words where its chat template refuses `tools`."""
    traits = traits_of(tokenizer)
    if tools is None or not traits.tools.in_template:
        return DESCRIBED if traits.tools.needs_tools else traits.tools
    try:
        text = apply_template(tokenizer, [ASKED], reply_follows=True, in_parts=traits.in_parts, tools=tools.definitions)
    except TemplateError:
        return DESCRIBED
    return traits.tools if all(name in text for name in tools.names) else DESCRIBED


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], *, reply_follows: bool, tools: Sequence[Tool] = ()
) -> str:
    """Return a conversation as text; with `reply_follows` it ends with the header of the assistant's reply."""
    traits = traits_of(tokenizer)
    turns = _folded(messages) if traits.folds_system else messages
    if traits.needs_question and not any(turn["role"] == "user" for turn in turns):
        turns = [{**turn, "role": "user"} if turn["role"] == "system" else turn for turn in turns]
    text = apply_template(tokenizer, turns, reply_follows=reply_follows, in_parts=traits.in_parts, tools=tools)
    return text + traits.header if reply_follows else text


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Turn],
    *,
    reply_follows: bool,
    in_parts: bool = False,
    tools: Sequence[Tool] = (),
) -> str:
    """Return a conversation as the template itself writes it, with contents as lists of parts if `in_parts`.

    Raises jinja2's TemplateError where the template refuses the conversation, or takes too long or too much for it.
    """
    turns = [dict(turn) for turn in messages]
    most = sum(len(turn["content"]) for turn in turns) * MOST_TIMES + (len(turns) + 1) * MOST_CHARS
    most += sum(len(json.dumps(one)) for one in (*tools, *(turn.get("tool_calls") for turn in turns))) * TOOL_TIMES
    for turn in turns if in_parts else ():
        turn["content"] = [{"type": "text", "text": turn["content"]}]
    given: Any = list(tools) or None
    try:
        with bounded_rendering():
            rendered = tokenizer.apply_chat_template(
                turns, tools=given, tokenize=False, add_generation_prompt=reply_follows
            )
    except TemplateError:
        raise
    except Exception as error:  # templates are programs, and raise whatever they like
        raise TemplateError(f"the chat template fails: {error!r:.200}") from error
    text = str(rendered)
    if len(text) > most:
        raise TemplateError(f"the chat template makes {len(text):,} characters of it; {most:,} make sense")
    return text


def traits_of(tokenizer: PreTrainedTokenizerBase) -> TemplateTraits:
    """Return the traits of the tokenizer's chat template, found on the first call."""
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != tokenizer.chat_template:
        known = _KNOWN[tokenizer] = (tokenizer.chat_template, _Probe(tokenizer).traits())
    return known[1]


_KNOWN: WeakKeyDictionary[Any, tuple[object, TemplateTraits]] = WeakKeyDictionary()


class _Probe:
    """Renderings of conversations of known texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.in_parts = tokenizer, False

    def traits(self) -> TemplateTraits:
        """Find the traits."""
        if not _has(self.render(ASKED, reply_follows=True), USER):
            self.in_parts = True
        prompt = self.render(ASKED, reply_follows=True)
        if not _has(prompt, USER):
            return TemplateTraits(no_chat="its chat template does not show the user's words")
        made = TemplateTraits(
            self.in_parts,
            folds_system=not _has(self.render(_system(), ASKED), SYSTEM, USER),
            needs_question=not _has(self.render(_system(), reply_follows=True), SYSTEM),
        )
        again = {"role": "user", "content": AGAIN}
        several = self.render(ASKED, ANSWERED, again, reply_follows=True)
        if not _has(several, USER, ASSISTANT, AGAIN):
            return replace(made, no_chat="its chat template does not show the turns of a conversation one by one")
        whole = self.render(ASKED, ANSWERED)
        if not _has(whole, USER, ASSISTANT):
            return replace(made, no_training="its chat template does not show a conversation that ends with a reply")
        before, _, after = whole.partition(ASSISTANT)
        if prompt == self.render(ASKED) and before.startswith(prompt) and before[len(prompt) :].strip():
            made = replace(made, header=before[len(prompt) :].rstrip(" "))
        if not whole.startswith(prompt + made.header):
            made = replace(made, no_training=_reply_elsewhere(prompt + made.header, whole))
        made = replace(made, tools=ToolTraits.of(self.with_tools, made.header))
        control = control_tokens(self.tokenizer, lambda: several)
        behind = [_first(control, after), _first(control, several.partition(ASSISTANT)[2])]
        return replace(made, end=behind[0], ends=frozenset(control.ids[text] for text in behind if text is not None))

    def with_tools(self, turns: Sequence[Turn], tools: Sequence[Tool], reply_follows: bool) -> str:
        """Return `render` of a conversation with tools."""
        return self.render(*turns, reply_follows=reply_follows, tools=tools)

    def render(self, *turns: Turn, reply_follows: bool = False, tools: Sequence[Tool] = ()) -> str:
        """Return the conversation as text; nothing if the template refuses it."""
        try:
            return apply_template(
                self.tokenizer, turns, reply_follows=reply_follows, in_parts=self.in_parts, tools=tools
            )
        except Exception:  # templates are programs, and raise whatever they like
            return ""


def _shield(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn]) -> tuple[list[Any], Shield]:
    def written() -> str:
        probe = _Probe(tokenizer)
        return probe.render(ASKED, ANSWERED, ASKED, reply_follows=True)

    return shield(tokenizer, messages, written)


def _system() -> Turn:
    return {"role": "system", "content": SYSTEM}


def _has(text: str, *parts: str) -> bool:
    """Return True if the parts stand in the text in this order."""
    start = 0
    for part in parts:
        if (found := text.find(part, start)) < 0:
            return False
        start = found + len(part)
    return True


def _first(control: ControlTokens, text: str) -> str | None:
    """Return the control token that `text` begins with, but for blanks."""
    position, found = next(control.find(text), (0, None))
    return None if text[:position].strip() else found


def _folded(messages: Sequence[Turn]) -> list[Turn]:
    """Return the messages with a leading system prompt as the beginning of the first question."""
    first, *others = messages
    if first["role"] != "system":
        return [*messages]
    if not others or others[0]["role"] != "user":
        return [{**first, "role": "user"}, *others]
    asked = f"{first['content']}\n\n{others[0]['content']}"
    return [{**others[0], "content": asked}, *others[1:]]


def _reply_elsewhere(prompt: str, whole: str) -> str:
    """Return the reason why no reply can be learned behind such a prompt."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)))
    return (
        f"the chat template does not put the reply behind the generation prompt: that goes on with "
        f"{prompt[same:][:SHOWN]!r}, a whole conversation with {whole[same:][:SHOWN]!r}"
    )


def _through_end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the reply up to the token that ends it, without what the template appends to it (such as a newline)."""
    end = traits_of(tokenizer).end
    if end is not None and end in text:
        return text[: text.index(end) + len(end)]
    end = tokenizer.eos_token
    if not isinstance(end, str):
        return text
    return text[: text.rindex(end) + len(end)] if end in text else text + end
