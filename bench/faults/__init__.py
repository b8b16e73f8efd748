"""Fault injection: kills, power cuts and full disks under load, and training beside requests."""
