"""Every claim about speed and memory, as ratios against named baselines in the same run: `python -m
benchmarks`.
"""
