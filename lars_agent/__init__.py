"""Personalization of a local language model with LARS adapters, within a memory budget."""
