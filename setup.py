"""What pyproject.toml cannot say: the presets, which lie beside the package, are installed inside it."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=['sslax*']), 'sslax.configs'], package_dir={'sslax.configs': 'configs'})
