"""What every part of the kit may import: compress, scoring and tools. It needs nothing but Python itself."""
