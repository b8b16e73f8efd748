"""General text for evaluation and rehearsal, shipped with the package."""
