"""REST: one file per resource. A route parses, calls one function and returns a schema."""
