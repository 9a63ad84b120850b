"""What is read off the dot products between the parts of a gradient. Shapes: K groups."""

from fairclip._arrays import Array, namespace


def norms_of(gramian: Array) -> Array:
    """Return the norm of each part, (..., K + 1), by the dot products (..., K + 1, K + 1)."""
    norms: Array = gramian.diagonal(0, -2, -1).clip(0) ** 0.5  # rounding makes a 0 negative
    return norms


def with_rest(factors: Array) -> Array:
    """Return the factors of the groups (..., K), and 1 for what belongs to none, (..., K + 1)."""
    xp = namespace(factors)
    padded: Array = xp.concatenate((factors, xp.ones_like(factors[..., :1])), -1)
    return padded
