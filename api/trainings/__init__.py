"""Training runs over HTTP: request one, read what it measured and consumed."""
