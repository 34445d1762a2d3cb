"""What is lost, and what is done twice, when everything that can break does."""
