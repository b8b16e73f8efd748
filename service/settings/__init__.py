"""Every option of the daemon: its default, its unit, and where it is read from."""
