"""Kernels and memory levers, independent of LARS and of the planner."""
