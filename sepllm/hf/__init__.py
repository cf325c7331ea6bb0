"""Hugging Face models of this project."""
