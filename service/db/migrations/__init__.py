"""Numbered migrations; each is written once and never changed."""
