"""Bodies of the fault suite's jobs: short acts of its own, and the real ones where no act is."""
