"""A user's own data: pictures and classes from a folder, a table, an archive, TFDS or the Hub.

`adding` adds a set, `stored` keeps and finds it, `check` says what is in it, `own` makes a task of
it. A set consists of parquet files in the Hugging Face Hub's layout and a card.
"""
