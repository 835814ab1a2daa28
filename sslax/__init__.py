"""sslax: self-supervised learning in JAX, on one chip or a pod with the same result."""

__version__ = '0.1.0'
