"""Text shipped with the package: what an adapter must not forget."""
