"""From a specification and images to a trained network, once."""
