"""A user's own data: pictures and classes from a folder, a table, an archive, TFDS or the Hub.

`adding` brings a set in, `stored` keeps and finds it, `check` says what is in it, `own` makes a
task of it. A set is parquet files of the Hugging Face Hub's own layout and a card beside them.
"""
