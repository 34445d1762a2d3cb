"""Speed of training beside well-known trainers, of stacked runs, and of counting on a device."""
