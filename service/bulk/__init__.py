"""`munet classify`: answers to many images, by a gateway or by this process."""
