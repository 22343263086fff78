"""Commands of the model store, by subject; app.py puts them together."""
