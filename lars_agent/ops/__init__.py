"""Kernels and memory levers that know neither LARS nor the planner."""
