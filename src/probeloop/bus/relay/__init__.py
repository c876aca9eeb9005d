"""Chosen topics to another host, commands from there: the only part of probeloop that talks to a network."""
