"""Small whole programs whose start is measured."""
