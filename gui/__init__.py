"""The operator's window: models without Qt, views of one widget a file."""

if __name__ != "probeloop.gui":  # the same file under two names is two of every class in it
    raise ImportError(f"import it as probeloop.gui, not as {__name__}")
