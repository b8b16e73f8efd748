"""Removal of what the retention settings no longer keep."""
