"""The papers' claims, checked at laptop scale: runs, claims that read them, one report."""
