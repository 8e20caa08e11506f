"""Radio recordings: read, synthesised, and made into spectrograms. Knows no pipeline."""
