"""OpenAI's dialect under `/v1`, a file for each kind of request."""
