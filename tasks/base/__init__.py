"""Errors, files, locks, parameters and processes, which all other packages use; imports none of them."""
