"""What the hypotheses are measured with. Every measure takes a standard or a Top-GAP network."""
