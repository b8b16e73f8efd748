"""`lars-agent chat`: a conversation that streams, and feedback on what was said."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from service.client import ApiError, Client

MAX_NEW_TOKENS = 256
RATINGS = {"/good": "up", "/bad": "down"}


def converse(client: Client, profile: str, out: Console) -> None:
    """Reads lines until /quit or the end of input; a turn that fails is said and forgotten."""
    messages: list[dict[str, str]] = []
    interaction: str | None = None
    while True:
        try:
            line = out.input("[bold]you:[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        if line in RATINGS or line.split(" ")[0] == "/fix":
            _give_feedback(client, interaction, line, out)
        elif line:
            messages.append({"role": "user", "content": line})
            try:
                text, interaction = _reply(client, profile, messages, out)
            except ApiError as error:
                out.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
                messages.pop()
            else:
                messages.append({"role": "assistant", "content": text})


def _reply(client: Client, profile: str, messages: list[dict[str, str]], out: Console) -> tuple[str, str | None]:
    """The reply's text and its interaction id, None where it was not recorded; printed as it comes."""
    body = {"inputs": messages, "parameters": {"max_new_tokens": MAX_NEW_TOKENS, "adapter_id": profile}}
    last: dict[str, Any] = {}
    for last in client.events("/generate_stream", body):
        out.print(last["token"]["text"], end="", markup=False, highlight=False, soft_wrap=True)
    out.print()
    if last["interaction_id"] is None:
        out.print("(this reply was not recorded: `lars-agent status` says why)", style="yellow", highlight=False)
    return str(last["generated_text"]), last["interaction_id"]


def _give_feedback(client: Client, interaction: str | None, line: str, out: Console) -> None:
    if interaction is None:
        out.print("there is no reply that feedback could be about; say something first")
        return
    if line.startswith("/fix") and not line.removeprefix("/fix").strip():
        out.print("say what the reply should have been: /fix TEXT")
        return
    body: dict[str, Any] = {"interaction_id": interaction}
    body |= {"rating": RATINGS[line]} if line in RATINGS else {"correction": line.removeprefix("/fix").strip()}
    out.print(f"stored {client.post('/feedback', body)['id']}", highlight=False)
