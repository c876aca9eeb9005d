"""Injects faults into real rigs and holds them to what must survive each: `probeloop bench chaos`."""
