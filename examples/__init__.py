"""People made up, and a demonstration of what the daemon does for one of them."""
