"""Choose how to train within a memory budget: shapes, workload, estimate, costs, planner."""
