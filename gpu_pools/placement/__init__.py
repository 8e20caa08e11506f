"""What devices there are, what waits, and what starts next: decisions without side effects."""
