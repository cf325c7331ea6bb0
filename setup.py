"""Builds the C++ helper of the data loader where there is a compiler; everything else stands in pyproject.toml.

Without pybind11 or a compiler the installation goes on, and NumPy does the helper's work (`megatron/data/kernels.py`).
"""

from setuptools import Extension, setup

try:
    import pybind11
except ImportError:
    helpers = []
else:
    helpers = [
        Extension(
            "megatron.data.native._kernels",
            sources=["megatron/data/native/kernels.cpp"],
            include_dirs=[pybind11.get_include()],
            language="c++",
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden"],
            optional=True,  # a build that fails is a warning
        )
    ]

setup(ext_modules=helpers)
