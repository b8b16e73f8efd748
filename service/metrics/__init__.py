"""Prometheus metrics without personal data: no profile, prompt, reply, feedback id or path."""
