"""Experiments: plans are run, fed with answers, kept within a budget, recorded, and taken up again after a crash."""
