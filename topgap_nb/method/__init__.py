"""Section 3 of the paper, in its order: model (3.1), pooling (3.2), loss (3.3); then choose_k."""
