"""`lars-agent chat`: a conversation with streamed replies, and feedback on them."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from lars_agent.store.names import BASE, is_profile_name
from service.cli.client import ApiError, Client

MAX_NEW_TOKENS = 256
NOT_FOUND = 404
RATINGS = {"/good": "up", "/bad": "down"}
HELP, QUIT, FIX = ("/help", "/?"), ("/quit", "/exit", "/bye"), "/fix"
HELP_TEXT = """\
/good, /bad   rate the last reply
/fix TEXT     say what the last reply should have been: it is recalled at once, and learned later
/help         show this
/quit         end, as do /exit, /bye and Ctrl-D
All else is said to the model; a text that begins with a slash by doubling it: //etc is a folder."""


def converse(client: Client, profile: str, out: Console) -> None:
    """Read lines until /quit or the end of input; a turn that fails is reported and dropped."""
    chat = Chat(client, profile, out)
    while True:
        try:
            line = out.input("[bold]you:[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in QUIT:
            return
        if line in HELP:
            out.print(HELP_TEXT, markup=False, highlight=False, soft_wrap=True)
        elif line in RATINGS or line.split()[:1] == [FIX]:
            chat.give_feedback(line)
        elif line.startswith("/") and not line.startswith("//"):
            out.print(unknown(line), markup=False, highlight=False, soft_wrap=True)
        elif line:
            chat.say(line.removeprefix("/"))


def unknown(line: str) -> str:
    """Return the answer to a command that does not exist, or that is followed by what it does not take."""
    name = line.split()[0]
    if name in (*RATINGS, *HELP, *QUIT):
        return f"{name} takes no text; nothing was done (/fix TEXT says what the reply should have been)"
    return f"there is no command {name}; /help lists them, and // begins a text with a slash"


class Chat:
    """A conversation with `profile`, written to `out`.

    The base model replies for a profile that does not exist yet; the first feedback creates it.
    """

    def __init__(self, client: Client, profile: str, out: Console) -> None:
        self._client, self._profile, self._out = client, profile, out
        self._replier = profile  # or BASE, until the profile exists
        self._messages: list[dict[str, str]] = []
        self._interaction: str | None = None

    def say(self, line: str) -> None:
        """Send the user's `line` and print the reply as it comes."""
        self._messages.append({"role": "user", "content": line})
        try:
            text = self._reply_or_begin()
        except ApiError as error:
            self._out.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            self._messages.pop()
        else:
            self._messages.append({"role": "assistant", "content": text})

    def give_feedback(self, line: str) -> None:
        """Send /good, /bad or /fix TEXT about the last reply."""
        if self._interaction is None:
            self._out.print("there is no reply to rate yet; say something first")
            return
        if line.startswith(FIX) and not line.removeprefix(FIX).strip():
            self._out.print("write the reply that you wanted: /fix TEXT")
            return
        body: dict[str, Any] = {"interaction_id": self._interaction}
        body |= {"rating": RATINGS[line]} if line in RATINGS else {"correction": line.removeprefix(FIX).strip()}
        body |= {"profile": self._profile} if self._replier != self._profile else {}
        self._out.print(f"stored {self._client.post('/feedback', body)['id']}", highlight=False)
        self._replier = self._profile

    def _reply_or_begin(self) -> str:
        """Return the reply's text; switch to the base model if the profile does not exist yet."""
        try:
            return self._reply()
        except ApiError as error:
            if error.status != NOT_FOUND or not is_profile_name(self._replier):
                raise
        self._replier = BASE
        message = f"(there is no profile {self._profile} yet: the base model replies; your first feedback creates it)"
        self._out.print(message, style="yellow", highlight=False)
        return self._reply()

    def _reply(self) -> str:
        parameters = {"max_new_tokens": MAX_NEW_TOKENS, "adapter_id": self._replier}
        last: dict[str, Any] = {}
        for last in self._client.events("/generate_stream", {"inputs": self._messages, "parameters": parameters}):
            self._out.print(last["token"]["text"], end="", markup=False, highlight=False, soft_wrap=True)
        self._out.print()
        self._interaction = last["interaction_id"]
        if self._interaction is None:
            message = "(this reply was not recorded: `lars-agent status` says why)"
            self._out.print(message, style="yellow", highlight=False)
        return str(last["generated_text"])
