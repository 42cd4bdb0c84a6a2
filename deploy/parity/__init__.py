"""How close outputs are to a reference, and whether that is close enough."""
