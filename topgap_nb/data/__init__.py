"""Data sets: one interface, one reader, one file per set, and a person's own folder."""
