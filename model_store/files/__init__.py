"""Where the bytes of a store lie: a local directory or an object store."""
