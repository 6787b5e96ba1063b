"""From a specification to a measured number."""
