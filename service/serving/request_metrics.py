"""Counters and histograms of requests and generated replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from lars_agent.errors import GenerationCancelled
from lars_agent.runtime.request import Generation

DIALECTS = (("/generate", "tgi"), ("/v1/messages", "anthropic"), ("/v1/", "openai"), ("/api/", "ollama"))
OWN_DIALECT = "lars"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # upper bounds of buckets


class RequestMetrics:
    """Counters and histograms in a registry of their own, one per application."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more gauge for each counter
        self.registry = CollectorRegistry()
        self._requests = self._counter("http_requests", "Requests by API dialect and HTTP status.", "dialect", "status")
        outcomes = "Generated replies by outcome: the finish reason, `cancelled`, or `failed`."
        self._replies = self._counter("replies", outcomes, "outcome")
        self._tokens = self._counter("tokens", "Tokens by kind: `prompt`, or `generated`.", "kind")
        self._reply_s = self._histogram("reply_seconds", "Time from a request to its whole reply, including the queue.")
        self._first_s = self._histogram("time_to_first_token_seconds", "Time from a request to its first token.")

    def count_request(self, path: str, status: int) -> None:
        """Count a request for `path` that was answered with `status`."""
        self._requests.labels(dialect_of(path), str(status)).inc()

    def count_reply(self, generation: Generation, seconds: float) -> None:
        """Count a reply that was finished `seconds` after its request."""
        self._replies.labels(generation.finish_reason).inc()
        self._tokens.labels("prompt").inc(generation.prompt_tokens)
        self._tokens.labels("generated").inc(generation.generated_tokens)
        self._reply_s.observe(seconds)
        self._first_s.observe(max(0.0, seconds - generation.reply_s))

    @contextmanager
    def counting_failure(self) -> Iterator[None]:
        """Count a reply that an exception ends within the block; a client that disconnects raises one, too."""
        try:
            yield
        except GenerationCancelled:
            self._replies.labels("cancelled").inc()
            raise
        except BaseException as error:
            self._replies.labels("failed" if isinstance(error, Exception) else "cancelled").inc()
            raise

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"lars_agent_{name}", documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str) -> Histogram:
        return Histogram(f"lars_agent_{name}", documentation, buckets=SECONDS, registry=self.registry)


def dialect_of(path: str) -> str:
    """Return the API dialect that `path` belongs to."""
    return next((dialect for prefix, dialect in DIALECTS if path.startswith(prefix)), OWN_DIALECT)
