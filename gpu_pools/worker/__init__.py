"""The worker of a host: takes runs from their queues, finds slots for them, and starts them."""
