"""All services of a home together: up, down, health."""
