"""A notebook as the steps that it ran, and which of them its script needs."""
