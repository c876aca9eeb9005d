"""Where to measure next, learned from what the image shows around each place: deep kernel learning and its rivals."""
