"""`python -m happyhorse_async` is the command `happyhorse`."""

from .cli import main

main()
