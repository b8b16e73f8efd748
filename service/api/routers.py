"""The routers of the API, in the order in which a path is looked up."""

from __future__ import annotations

from service.api import (
    adapters,
    anthropic,
    backups,
    conversations,
    effects,
    erasures,
    events,
    feedback,
    generate,
    imports,
    interactions,
    jobs,
    models,
    operation,
    profiles,
    schedule,
    session,
    sessions,
    settings,
)
from service.api.ollama import chat as ollama_chat
from service.api.ollama import embed as ollama_embed
from service.api.ollama import models as ollama_models
from service.api.ollama import store as ollama_store
from service.api.openai import chat as openai_chat
from service.api.openai import completions as openai_completions
from service.api.openai import embeddings as openai_embeddings
from service.api.openai import feedback as openai_feedback
from service.api.openai import files as openai_files
from service.api.openai import fine_tuning as openai_fine_tuning
from service.api.openai import models as openai_models
from service.api.openai import responses as openai_responses

MODULES = (
    generate,
    openai_chat,
    openai_completions,
    openai_models,
    openai_embeddings,
    openai_responses,
    openai_files,
    openai_fine_tuning,
    openai_feedback,
    anthropic,
    ollama_chat,
    ollama_models,
    ollama_embed,
    ollama_store,
    effects,  # before what takes "effects" for the id of feedback
    feedback,
    imports,
    interactions,
    conversations,
    profiles,
    erasures,
    adapters,
    jobs,
    schedule,
    settings,
    session,
    sessions,
    backups,
    models,
    operation,
    events,
)
ROUTERS = tuple(module.router for module in MODULES)
GENERATING = (
    generate,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
    anthropic,
    ollama_chat,
    ollama_embed,
)  # a POST has the model at work
GENERATING_PATHS = frozenset(
    route.path for module in GENERATING for route in module.router.routes if "POST" in (getattr(route, "methods", ()))
)
