"""Every setting with its unit, range, default and meaning: the source of schema and reference."""
