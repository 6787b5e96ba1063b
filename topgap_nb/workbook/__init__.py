"""The notebooks' stagehands: tables, figures, explorers, and the runner."""
