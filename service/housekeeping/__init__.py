"""What the daemon gathers keeps to limits of age and of size."""
