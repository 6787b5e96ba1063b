"""Make once, under a hash of everything that the result depends on."""
