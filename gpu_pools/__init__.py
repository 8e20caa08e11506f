"""Who gets which GPU when: slots, placement, worker. Stands on tasks.base; computes nothing itself."""
