"""What ends a command with one line on standard error."""


class CommandFailed(Exception):
    """A command that can't do its work; the text says why, and the way out."""
