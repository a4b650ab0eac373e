"""The only places that do I/O."""
