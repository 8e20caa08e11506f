"""What everything stands on: errors, files and locks, parameters, settings. Imports nothing of ours."""
