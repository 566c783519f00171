"""One machine's servers and workers: started, watched, looked at and stopped."""
