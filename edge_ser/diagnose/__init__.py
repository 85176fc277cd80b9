"""What this machine is and how fast edge-ser is on it."""
