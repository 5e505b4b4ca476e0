"""Benchmarks: what a claim about speed or memory rests on. `fedkd bench` runs them."""
