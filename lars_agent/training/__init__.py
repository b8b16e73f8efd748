"""Training of a candidate adapter from examples."""
