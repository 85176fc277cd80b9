"""From audio of any rate to 16 kHz mono, and from there to log-Mel features."""
