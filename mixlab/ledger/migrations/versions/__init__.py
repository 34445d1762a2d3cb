"""One file a revision, named in order."""
