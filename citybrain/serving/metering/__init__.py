"""What departments may use, counted while they use it: one book in memory for all gateways of a node."""
