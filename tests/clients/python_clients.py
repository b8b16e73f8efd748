"""What each client's own package says to the daemon and gets: `python python_clients.py URL` writes it as JSON by name.

It runs in an environment that has the clients and nothing of lars-agent.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

QUESTION = "Name the capital of France."  # whose answer does not hang on rounding
ASKED = [{"role": "user", "content": QUESTION}]
TOKENS, MORE_TOKENS = 12, 60
MODEL = "default"
TOOL = {
    "type": "function",
    "function": {
        "name": "find_city",
        "description": "Find a city.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}


class City(BaseModel):
    """A city."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    is_large: bool


SCHEMA = {"type": "json_schema", "json_schema": {"name": "City", "strict": True, "schema": City.model_json_schema()}}


def of_openai(url: str) -> dict[str, Any]:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    common = {"model": MODEL, "messages": ASKED, "temperature": 0}
    whole = client.chat.completions.create(**common, max_tokens=TOKENS)
    pieces = client.chat.completions.create(**common, max_tokens=TOKENS, stream=True)
    again = [*ASKED, whole.choices[0].message, {"role": "user", "content": "And of Italy?"}]
    called = client.chat.completions.create(
        **common, tools=[TOOL], tool_choice="required", max_tokens=MORE_TOKENS
    ).choices[0]
    shaped = client.chat.completions.create(**common, response_format=SCHEMA, max_tokens=MORE_TOKENS)
    responded = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=TOKENS)
    vectors = client.embeddings.create(model=MODEL, input=[QUESTION, "Hello"]).data
    return {
        "chat": whole.choices[0].message.content,
        "streaming": "".join(one.choices[0].delta.content or "" for one in pieces),
        "again": client.chat.completions.create(model=MODEL, messages=again, temperature=0, max_tokens=TOKENS)
        .choices[0]
        .message.content,
        "tools": called.message.tool_calls[0].function.name,
        "structured output": shaped.choices[0].message.content,
        "responses": responded.output_text,
        "embeddings": [len(one.embedding) for one in vectors],
        "models": [model.id for model in client.models.list()],
    }


def of_ollama(url: str) -> dict[str, Any]:
    from ollama import Client

    client = Client(host=url)
    options = {"temperature": 0, "num_predict": TOKENS}
    pieces = client.chat(model=f"{MODEL}:latest", messages=ASKED, options=options, stream=True)
    whole = client.chat(model=MODEL, messages=ASKED, options=options)
    again = [*ASKED, whole.message, {"role": "user", "content": "And of Italy?"}]
    shaped = client.chat(
        model=MODEL, messages=ASKED, format=City.model_json_schema(), options=options | {"num_predict": MORE_TOKENS}
    )
    tooled = client.chat(model=MODEL, messages=ASKED, tools=[TOOL], options=options)
    return {
        "chat": whole.message.content,
        "streaming": "".join(piece.message.content or "" for piece in pieces),
        "again": client.chat(model=MODEL, messages=again, options=options).message.content,
        "offered": tooled.done,
        "structured output": shaped.message.content,
        "embeddings": [len(one) for one in client.embed(model=MODEL, input=[QUESTION, "Hello"]).embeddings],
        "models": [model.model for model in client.list().models],
    }


def _of_litellm(**common: Any) -> dict[str, Any]:
    import litellm

    common |= {"messages": ASKED, "temperature": 0}
    pieces = litellm.completion(**common, max_tokens=TOKENS, stream=True)
    shaped = litellm.completion(**common, max_tokens=MORE_TOKENS, response_format=SCHEMA)
    return {
        "chat": litellm.completion(**common, max_tokens=TOKENS).choices[0].message.content,
        "streaming": "".join(one.choices[0].delta.content or "" for one in pieces),
        "structured output": shaped.choices[0].message.content,
    }


def of_litellm_openai(url: str) -> dict[str, Any]:
    return _of_litellm(model=f"openai/{MODEL}", api_base=f"{url}/v1", api_key="none")


def of_litellm_ollama(url: str) -> dict[str, Any]:
    return _of_litellm(model=f"ollama_chat/{MODEL}", api_base=url)


def _of_langchain(chat: Any, longer: Any, embeddings: Any) -> dict[str, Any]:
    shaped = longer.with_structured_output(City, method="json_schema").invoke(QUESTION)
    return {
        "chat": chat.invoke(QUESTION).content,
        "streaming": "".join(piece.content for piece in chat.stream(QUESTION)),
        "structured output": shaped.model_dump_json(),
        "embeddings": [len(one) for one in embeddings.embed_documents([QUESTION, "Hello"])],
    }


def of_langchain_openai(url: str) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    common = {"model": MODEL, "base_url": f"{url}/v1", "api_key": "none"}
    chat, longer = (ChatOpenAI(**common, temperature=0, max_tokens=most) for most in (TOKENS, MORE_TOKENS))
    found = _of_langchain(chat, longer, OpenAIEmbeddings(**common, check_embedding_ctx_length=False))
    called = longer.bind_tools([TOOL], tool_choice="any").invoke(QUESTION)
    return found | {"tools": called.tool_calls[0]["name"]}


def of_langchain_ollama(url: str) -> dict[str, Any]:
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    common = {"model": MODEL, "base_url": url}
    chat, longer = (ChatOllama(**common, temperature=0, num_predict=most) for most in (TOKENS, MORE_TOKENS))
    offered = chat.bind_tools([TOOL]).invoke(QUESTION)
    return _of_langchain(chat, longer, OllamaEmbeddings(**common)) | {"offered": offered is not None}


def of_llama_index_openai(url: str) -> dict[str, Any]:
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model=MODEL, api_base=f"{url}/v1", api_key="none", is_chat_model=True, temperature=0, max_tokens=TOKENS
    )
    return {
        "chat": model.complete(QUESTION).text,
        "streaming": "".join(piece.delta or "" for piece in model.stream_complete(QUESTION)),
    }


def of_llama_index_ollama(url: str) -> dict[str, Any]:
    from llama_index.llms.ollama import Ollama

    model = Ollama(model=MODEL, base_url=url, temperature=0, additional_kwargs={"num_predict": TOKENS})
    return {
        "chat": model.complete(QUESTION).text,
        "streaming": "".join(piece.delta or "" for piece in model.stream_complete(QUESTION)),
    }


def of_huggingface_hub(url: str) -> dict[str, Any]:
    from huggingface_hub import InferenceClient

    talk, client = InferenceClient(base_url=f"{url}/v1"), InferenceClient(model=url)
    asked = {"messages": ASKED, "model": MODEL, "max_tokens": TOKENS, "temperature": 0.0}
    pieces = talk.chat_completion(**asked, stream=True)
    return {
        "chat": talk.chat_completion(**asked).choices[0].message.content,
        "streaming": "".join(one.choices[0].delta.content or "" for one in pieces if one.choices),
        "text generation": [
            client.text_generation(QUESTION, max_new_tokens=TOKENS),
            "".join(client.text_generation(QUESTION, max_new_tokens=TOKENS, stream=True)),
            len(client.text_generation(QUESTION, max_new_tokens=TOKENS, details=True).details.tokens),
        ],
    }


def of_pydantic_ai(url: str) -> dict[str, Any]:
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    short, long = ({"temperature": 0, "max_tokens": most} for most in (TOKENS, MORE_TOKENS))

    async def streamed() -> str:
        async with Agent(model, model_settings=short).run_stream(QUESTION) as result:
            return await result.get_output()

    return {
        "chat": Agent(model, model_settings=short).run_sync(QUESTION).output,
        "streaming": asyncio.run(streamed()),
        "native": Agent(model, output_type=NativeOutput(City), model_settings=long)
        .run_sync(QUESTION)
        .output.model_dump_json(),
        "structured output": Agent(model, output_type=City, model_settings=long)  # by a tool that it must call
        .run_sync(QUESTION)
        .output.model_dump_json(),
    }


def of_instructor(url: str) -> dict[str, Any]:
    import instructor
    from openai import OpenAI

    found = []
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), mode=mode)
        made = client.chat.completions.create(
            model=MODEL, messages=ASKED, response_model=City, temperature=0, max_tokens=MORE_TOKENS, max_retries=1
        )
        found.append(made.model_dump_json())
    return dict(zip(("structured output", "native"), found, strict=True))


def of_llm(url: str) -> dict[str, Any]:
    own = {"model_id": "mine", "model_name": MODEL, "api_base": f"{url}/v1", "api_key_name": "mine"}
    Path("extra-openai-models.yaml").write_text(json.dumps([own]))

    def llm(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("llm")), "prompt", "-m", "mine", "--key", "none", *arguments]
        options = ["-o", "temperature", "0", "-o", "max_tokens", str(TOKENS), QUESTION]
        environment = os.environ | {"LLM_USER_PATH": str(Path.cwd())}
        return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=True).stdout

    return {"chat": llm("--no-stream"), "streaming": llm()}


CLIENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    name.removeprefix("of_"): client for name, client in list(globals().items()) if name.startswith("of_")
}


def tried(client: Callable[[str], dict[str, Any]], url: str) -> dict[str, Any]:
    try:
        return client(url)
    except Exception:
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    found = {name: tried(client, sys.argv[1]) for name, client in CLIENTS.items()}
    sys.stdout.write(json.dumps(found) + "\n")
