"""From examples to a candidate adapter."""
