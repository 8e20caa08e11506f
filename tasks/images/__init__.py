"""Images and videos as every pipeline reads and writes them. Knows no pipeline."""
