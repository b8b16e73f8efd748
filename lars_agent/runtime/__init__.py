"""Replies from the base model with the adapter that is in use."""
