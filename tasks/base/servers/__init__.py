"""What is known of the yard's servers wherever they are asked: their database, passwords, whom they answer."""
