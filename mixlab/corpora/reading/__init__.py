"""Reading documents from files and folders, local or remote, through a path policy and limits."""
