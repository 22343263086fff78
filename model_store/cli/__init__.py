"""Commands of the model store, by subject; `model_store/__main__.py` puts them together."""
