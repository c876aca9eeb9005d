"""What makes a spectrum interesting, as one number: of switching loops, loss spectra, patterns, and in general."""
