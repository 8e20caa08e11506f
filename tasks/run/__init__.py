"""What a step of a flow stands on: its context, its page in Prefect, its bars in the terminal. No pipeline's own."""
