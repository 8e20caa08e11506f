"""All programs of a home together: up, down, health."""
