"""Jobs over HTTP: list, follow, cancel."""
