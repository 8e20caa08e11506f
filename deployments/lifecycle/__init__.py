"""What outlives a run: the schedules that start flows, and the pins that keep runs."""
