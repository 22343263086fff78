"""Files of pictures, and what decoding them takes."""
