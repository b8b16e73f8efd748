"""Memory of a process: measurement, allocator settings and budget checks."""

from lars_agent.memory.measure import peak_rss_bytes, pss_bytes, reset_peak, rss_bytes

__all__ = ["peak_rss_bytes", "pss_bytes", "reset_peak", "rss_bytes"]
