"""The room behind `sslax.plan`: the real step compiled for chips that are not here, what it takes, what would make it fit."""
