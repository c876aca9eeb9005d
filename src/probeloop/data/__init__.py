"""The words of probeloop: what a frame, an axis, a command and a number mean. Imports nothing of ours."""
