"""Backups: one checked file of what people said and what was learned from it, and the way back from one."""
