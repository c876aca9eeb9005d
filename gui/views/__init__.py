"""probeloop."""
