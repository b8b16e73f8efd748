"""Serving replies: the model host, the adapter in use, and the client of the engine process."""
