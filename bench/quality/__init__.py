"""How well a person is understood: facts that were corrected once, and how each pooling mode learns a persona."""
