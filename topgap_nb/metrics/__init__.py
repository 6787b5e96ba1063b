"""What the claims are measured with. Every metric takes a standard or a Top-GAP network."""
