"""Memory of a process: measurement, allocator settings and budget checks."""
