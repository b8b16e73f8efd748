"""Predicted against measured peak memory of random jobs, run by the real worker."""
