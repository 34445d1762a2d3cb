"""Job bodies: what each kind of job does, one file a kind, and what those files share."""
