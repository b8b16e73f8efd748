"""When to adapt: the nightly scheduler and the idle policy."""
