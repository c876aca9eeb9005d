"""Simulated instruments that speak a detector's own wire protocol, for drivers that were written for the real one.

`python -m probeloop.simulators.servers NAME --help`; NAME: merlin, dectris.
"""
