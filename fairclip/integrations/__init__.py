"""fairclip where users already train: one thin module for each library, imported by its full name.

Each module imports its library when it is imported itself, and says which extra installs it where
it is missing.
"""

__all__: list[str] = []
