"""Adapters to frameworks and services: each needs its own extra, and nothing else imports them."""


def needs(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error for a library that is not there, which says what to install."""
    if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
        return error  # a module of ours
    return ModuleNotFoundError(
        f"{error}; it comes with: pip install 'happyhorse-async[{extra}]'", name=error.name
    )
