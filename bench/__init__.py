"""Benchmarks: each prints its floor, the alternative and us, side by side, as ratios."""
