"""Offline training: grows one multitask system by evolution and publishes its paths."""
