"""Records to pictures and text."""
