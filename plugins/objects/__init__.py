"""From a map of walls to walls: branches and junctions with their shape, points on them, and spectra there."""
