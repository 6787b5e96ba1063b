"""A folder of a person's own images: found, joined where alike, split."""
