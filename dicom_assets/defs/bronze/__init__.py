"""Bronze: files and tables as they came."""
