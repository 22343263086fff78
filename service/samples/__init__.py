"""Keeps a part of the answers with their pictures, so that people can label them."""
