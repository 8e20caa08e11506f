"""What this machine has and lacks, and what is built for it."""
