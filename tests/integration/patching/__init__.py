"""Programs whose access sites are patched and unpatched while they run, or cannot be patched at all."""
