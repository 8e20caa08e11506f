"""Parts as files give them: read, mended or refused; and shapes that are no part, which are made up."""
