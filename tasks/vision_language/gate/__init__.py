"""The gate in front of an engine that speaks OpenAI's chat API: what it lets in, and for how long."""
