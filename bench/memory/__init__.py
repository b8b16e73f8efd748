"""Peak memory and time of a training step, of every method, each cell in a process of its own."""
