"""Frames, commands and events between the processes of one rig."""
