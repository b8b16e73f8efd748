"""The training worker process: launch, pause, limit, stop."""
