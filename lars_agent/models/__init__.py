"""Base models: download, check, convert, open memory-mapped."""
