"""What every step uses: its context, its page in Prefect, its bars in the terminal; knows no pipeline."""
