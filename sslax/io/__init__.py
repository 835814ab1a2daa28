"""Files of our own: written whole or not at all, kept in one place, and known by what is in them. Knows no jax."""
