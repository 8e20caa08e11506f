"""The commands of people who share a yard."""
