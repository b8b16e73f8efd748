"""What we claim, and the commands that measure it; results go to bench/results/."""
