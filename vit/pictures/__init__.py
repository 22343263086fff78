"""What a file says of its picture, read without decoding it, and what has to be decoded of it.

One module for each format that is accepted. Each walks the pieces of a file, takes from them what
the pixels need, and leaves out the rest: texts, profiles, thumbnails, later frames. Nothing that no
viewer needs can so refuse a picture, or cost memory or time.
"""
