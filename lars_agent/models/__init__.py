"""Base models: fetched, checked, converted, opened memory-mapped."""
