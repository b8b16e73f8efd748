"""Benchmarks of a checkout (`python -m bench`): the goals, the commands that measure them, and their results."""
