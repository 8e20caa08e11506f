"""Errors, files, locks, parameters and settings that all other packages use; imports none of them."""
