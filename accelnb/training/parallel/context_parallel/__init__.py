"""One sequence over several ranks, and attention that sees all of it."""
