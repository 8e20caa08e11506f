"""What every training of a network stands on: number formats, memory, batches, schedules, champions; no pipeline."""
