"""How the daemon starts, says how it is, reads its settings again, and ends."""
