"""What a person does with runs: start, submit, find, watch, cancel, fetch."""
