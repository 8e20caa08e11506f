"""What people do with runs: start, submit, find, watch, cancel, download."""
