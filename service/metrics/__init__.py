"""Metrics for Prometheus, without personal text: no profile, prompt, reply, feedback id or path is in any."""
