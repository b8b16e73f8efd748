"""Ollama's dialect under `/api`: replies as JSON lines, and the list of models."""
