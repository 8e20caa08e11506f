"""Vision-language models: served behind a gate, on a slot of a device."""
